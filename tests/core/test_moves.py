"""Moves come about together, or not at all."""

import re
from pathlib import Path

import pytest

from pocketfed.core.errors import BundleError
from pocketfed.core.moves import moving


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With a file in the place of another one, and a folder to move it to."""
    (tmp_path / "aside").mkdir()
    (tmp_path / "new").write_text("new")
    (tmp_path / "place").write_text("former")
    return tmp_path


def content(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_what_was_moved_stays_there(folder: Path) -> None:
    with moving() as move:
        move(folder / "place", folder / "aside" / "place")
        move(folder / "new", folder / "place")
    assert content(folder) == {"place": "new", "aside/place": "former"}


def replace_and_fail(folder: Path, error: BaseException) -> None:
    with moving() as move:
        move(folder / "place", folder / "aside" / "place")
        move(folder / "new", folder / "place")
        raise error


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_an_error_has_everything_moved_back_the_last_first(folder: Path, error: BaseException) -> None:
    before = content(folder)
    with pytest.raises(type(error)):
        replace_and_fail(folder, error)
    assert content(folder) == before


def move_to_where_there_is_no_way_back(folder: Path) -> None:
    with moving() as move:
        move(folder / "new", folder / "newer")
        move(folder / "aside", folder / "moved")
        (folder / "aside").write_text("somebody's")
        raise OSError(28, "No space left on device")


def test_what_cannot_be_moved_back_is_named_and_the_rest_is_moved_back(folder: Path) -> None:
    said = f"{folder / 'moved'} cannot be moved back to {folder / 'aside'} (Not a directory); make room there"
    with pytest.raises(BundleError, match=re.escape(said)):
        move_to_where_there_is_no_way_back(folder)
    assert (folder / "moved").is_dir()
    assert content(folder) == {"new": "new", "place": "former", "aside": "somebody's"}

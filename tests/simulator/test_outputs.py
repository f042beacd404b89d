"""A place that cannot be written to is found before a command begins its work."""

from collections.abc import Callable
from pathlib import Path

import pytest

from pocketfed.simulator.outputs import make_room
from tests.conftest import Shown


@pytest.mark.parametrize(
    ("words", "option"),
    [
        (["bench", "--json"], "--json"),
        (["bench", "--plot"], "--plot"),
        (["scales", "--backbone", "repvgg", "-o"], "--out"),
        (["backbones", "compact", "--measure"], "--measure"),
        (["probe", "run", "--photos", "album", "-o"], "--out"),
        (["bundle", "-o"], "--out"),
    ],
)
def test_a_folder_that_cannot_be_made(
    pocketfed: Callable[..., Shown], tmp_path: Path, words: list[str], option: str
) -> None:
    """Because a file has its name."""
    (tmp_path / "notes").write_text("a file")
    path = tmp_path / "notes" / "out.png"
    shown = pocketfed(*words, path)
    assert shown.code == 2
    assert f"Error: {option}: {path} cannot be written into {path.parent} (" in shown.err


def test_a_picture_has_an_ending_that_can_be_drawn(pocketfed: Callable[..., Shown], tmp_path: Path) -> None:
    for name in ("figures.xyz", "figures"):
        shown = pocketfed("bench", "--plot", tmp_path / name)
        assert shown.code == 2
        assert f"--plot: {tmp_path / name} has no ending of a picture; end it with one of: ." in shown.err
        assert ".png" in shown.err
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_made(tmp_path: Path) -> None:
    make_room(tmp_path / "a" / "b" / "figures.json", "--json")
    assert list((tmp_path / "a" / "b").iterdir()) == []

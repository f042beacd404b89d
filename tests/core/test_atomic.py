"""Files are whole or not there."""

import os
import stat
from pathlib import Path
from typing import Any

import pytest

from pocketfed.core.atomic import append_durably, write_atomically


def test_a_failure_leaves_the_old_file_and_no_litter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"old")

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """What is flushed and renamed from here on, in order, by name."""
    made: list[tuple[str, str]] = []
    flush, rename = os.fsync, os.replace

    def fsync(handle: int) -> None:
        made.append(("flush", Path(f"/proc/self/fd/{handle}").readlink().name))
        flush(handle)

    def replace(source: str, target: Path) -> None:
        made.append(("rename", target.name))
        rename(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    return made


needs_proc = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="reads names from Linux' /proc")


@needs_proc
def test_content_is_flushed_before_its_name_and_the_name_before_anything_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or a power cut might leave neither the new checkpoint nor the older ones, which are deleted next."""
    made = calls(monkeypatch)
    write_atomically(tmp_path / "file", b"new")
    (flushed, draft), *rest = made
    assert flushed == "flush"
    assert draft.startswith(".file.")
    assert rest == [("rename", "file"), ("flush", tmp_path.name)]


@needs_proc
def test_a_file_of_lines_has_its_name_flushed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = calls(monkeypatch)
    append_durably(tmp_path / "lines", 0, b"one\n")
    append_durably(tmp_path / "lines", 4, b"two\n")
    assert made == [("flush", "lines"), ("flush", tmp_path.name), ("flush", "lines")]


@pytest.mark.parametrize(
    ("call", "error"), [("open", PermissionError(13, "denied")), ("fsync", OSError(22, "Invalid argument"))]
)
def test_where_folders_cannot_be_flushed_files_are_written_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, error: OSError
) -> None:
    """Windows opens no folder, and some network file systems flush none."""
    before = getattr(os, call)

    def fails_for_folders(what: Any, *arguments: Any) -> Any:
        folder = what == tmp_path if call == "open" else stat.S_ISDIR(os.fstat(what).st_mode)
        if folder:
            raise error
        return before(what, *arguments)

    monkeypatch.setattr(os, call, fails_for_folders)
    write_atomically(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"new"


def test_a_key_is_its_owners_alone(tmp_path: Path) -> None:
    write_atomically(tmp_path / "open", b"1")
    write_atomically(tmp_path / "key", b"1", mode=0o600)
    assert [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("open", "key")] == [0o644, 0o600]


def test_content_is_put_behind_what_is_to_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "lines"
    assert append_durably(path, 0, b"one\n") == 4
    assert append_durably(path, 4, b"two\n") == 8

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            append_durably(path, 8, b"a torn line")
    assert append_durably(path, 8, b"three\n") == 14
    assert path.read_bytes() == b"one\ntwo\nthree\n"
    assert append_durably(path, 4, b"") == 4
    assert append_durably(path, 99, b"2\n") == 6, "what somebody made shorter has no gap"
    assert path.read_bytes() == b"one\n2\n"

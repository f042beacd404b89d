"""Files are whole or not there."""

import os
import stat
from pathlib import Path

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

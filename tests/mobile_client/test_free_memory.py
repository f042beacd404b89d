"""What a phone says of its memory."""

import os
from pathlib import Path

import pytest

from pocketfed.mobile_client.free_memory import free_memory

MEMINFO = """\
MemTotal:        8045788 kB
MemFree:          213408 kB
MemAvailable:    4410928 kB
Cached:          4012344 kB
"""


def test_what_caches_would_give_back_counts(tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text(MEMINFO)
    assert free_memory(tmp_path / "meminfo") == 4_410_928 * 1024


def test_without_that_it_is_what_the_system_says_or_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sysconf", {"SC_AVPHYS_PAGES": 1000, "SC_PAGE_SIZE": 4096}.__getitem__)
    (tmp_path / "old").write_text("MemTotal:        8045788 kB\n")
    assert free_memory(tmp_path / "old") == free_memory(tmp_path / "none") == 4_096_000

    def unknown(name: str) -> int:
        raise ValueError("unrecognized configuration name")

    monkeypatch.setattr(os, "sysconf", unknown)
    assert free_memory(tmp_path / "none") == 0

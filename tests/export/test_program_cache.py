"""The cache of programs: built once, told apart by what matters, bounded."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from pocketfed.core.learning_step import Method
from pocketfed.export import program_cache
from pocketfed.export.program_cache import cached_program


def method(size: int) -> Method:
    return Method("double", lambda x: (2 * x,), (torch.zeros(size),))


class Builder:
    """Counts how often it is asked."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, methods: Sequence[Method]) -> bytes:
        self.calls += 1
        return f"program {self.calls}".encode()


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("POCKETFED_CACHE", str(tmp_path))
    return tmp_path


def test_the_same_is_built_once_and_another_shape_or_description_anew() -> None:
    build = Builder()
    assert cached_program("a", [method(3)], build) == cached_program("a", [method(3)], build) == b"program 1"
    assert cached_program("a", [method(4)], build) == b"program 2"
    assert cached_program("b", [method(3)], build) == b"program 3"


def test_changed_sources_are_built_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    build = Builder()
    cached_program("a", [method(3)], build)
    monkeypatch.setattr(program_cache, "SOURCES", b"edited")
    assert cached_program("a", [method(3)], build) == b"program 2"


def test_the_least_recently_used_go_first(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program_cache, "KEPT", 2)
    build = Builder()
    for size in (1, 2, 3):
        cached_program("a", [method(size)], build)
    assert len(list((folder / "programs").iterdir())) == 2
    assert cached_program("a", [method(3)], build) == b"program 3"
    assert cached_program("a", [method(1)], build) == b"program 4"

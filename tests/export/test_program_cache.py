"""The cache of programs: built once, told apart by what matters, bounded."""

import importlib.util
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from pocketfed.core.learning_step import Method
from pocketfed.export import program_cache
from pocketfed.export.program_cache import cached_program, describe, describe_modules


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


def test_a_package_of_another_version_is_built_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    build = Builder()
    cached_program("a", [method(3)], build)
    known = metadata.version
    for count, package in enumerate(("torch", "executorch", "torchaudio", "torchvision", "timm"), start=2):
        with monkeypatch.context() as patch:
            patch.setattr(metadata, "version", lambda p, new=package: "9" if p == new else known(p))
            assert cached_program("a", [method(3)], build) == f"program {count}".encode()


def test_a_folder_that_cannot_be_made_is_no_cache(folder: Path) -> None:
    (folder / "programs").write_text("a file")
    build = Builder()
    assert cached_program("a", [method(3)], build) == b"program 1"
    assert cached_program("a", [method(3)], build) == b"program 2"


def test_without_a_home_there_is_no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    for name in ("POCKETFED_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    assert cached_program("a", [method(3)], Builder()) == b"program 1"


@pytest.mark.parametrize("refused", ["unlink", "stat", "mkdir"])
def test_a_cache_that_fails_while_it_is_written_does_no_harm(
    monkeypatch: pytest.MonkeyPatch, refused: str
) -> None:
    build = Builder()
    cached_program("a", [method(1)], build)
    monkeypatch.setattr(program_cache, "KEPT", 1)

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(refused)

    with monkeypatch.context() as patch:
        patch.setattr(Path, refused, refuse)
        assert cached_program("a", [method(2)], build) == b"program 2"


def test_a_cache_that_can_only_be_read_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    build = Builder()
    cached_program("a", [method(3)], build)

    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "utime", refuse)
    assert cached_program("a", [method(3)], build) == b"program 1"


SOURCE = """
import torch

class Base(torch.nn.Module):
    def forward(self, x):
        return 2 * self.inner(x)

class Outside(Base):
    def __init__(self, slope=0.1, size=3, act=None, shift=0.0):
        super().__init__()
        self.inner = torch.nn.LeakyReLU(slope)
        self.size = size
        self.act = act or (lambda x: x)
        self.weight = torch.nn.Parameter(torch.rand(2, size))
        self.register_buffer("shift", torch.full((), shift))
"""


def outside(path: Path, source: str, monkeypatch: pytest.MonkeyPatch, **settings: object) -> torch.nn.Module:
    """A module whose class a file defines that lies outside of every package."""
    path.write_text(source)
    specification = importlib.util.spec_from_file_location("outside_backbone", path)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    monkeypatch.setitem(sys.modules, "outside_backbone", module)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    specification.loader.exec_module(module)
    built = module.Outside(**settings)
    assert isinstance(built, torch.nn.Module)
    return built


def test_the_same_modules_have_the_same_description(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = describe_modules(outside(tmp_path / "a.py", SOURCE, monkeypatch))
    assert describe_modules(outside(tmp_path / "a.py", SOURCE, monkeypatch)) == first
    for expected in ("outside_backbone.Outside", "inner: torch.nn.modules.activation.LeakyReLU", "(2, 3)"):
        assert expected in first
    assert " at 0x" not in first


@pytest.mark.parametrize(
    "settings", [{"slope": 0.2}, {"size": 4}, {"act": torch.tanh}, {"shift": 1.0}, {"shift": float("nan")}]
)
def test_other_settings_have_another_description(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, object]
) -> None:
    path = tmp_path / "a.py"
    first = describe_modules(outside(path, SOURCE, monkeypatch))
    assert describe_modules(outside(path, SOURCE, monkeypatch, **settings)) != first


@dataclass
class Table:
    """A plain attribute that holds an array."""

    rows: object


@pytest.mark.parametrize("inside", [lambda x: x, lambda x: [x], lambda x: (1, {"a": x}), Table])
@pytest.mark.parametrize("kind", [torch.from_numpy, np.asarray, np.ndarray.tolist])
def test_large_attributes_are_seen_whole(
    inside: Callable[[object], object], kind: Callable[[NDArray[np.float32]], object]
) -> None:
    """What `repr` leaves out: the middle of an array, and digits."""
    values = np.linspace(0, 1, 5000, dtype=np.float32)
    other = values.copy()
    other[2500] += np.float32(1e-7)
    assert not np.array_equal(values, other)
    assert describe(inside(kind(values))) == describe(inside(kind(values.copy())))
    assert describe(inside(kind(values))) != describe(inside(kind(other)))


def test_what_a_description_tells_apart() -> None:
    values = np.arange(4)
    assert (
        len({describe(one) for one in (values, values.astype("f4"), values.reshape(2, 2), [0, 1, 2, 3])}) == 4
    )
    assert describe({"a", "b", "c"}) == describe({"c", "b", "a"})
    assert describe({1: "a"}) != describe({1: "b"})
    assert describe(np.array([{1}, None], dtype=object)) == describe(np.array([{1}, None], dtype=object))
    assert " at 0x" not in describe([object(), {"a": object()}])


def test_an_edited_class_or_base_has_another_description(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = describe_modules(outside(tmp_path / "a.py", SOURCE, monkeypatch))
    edited = outside(tmp_path / "a.py", SOURCE.replace("2 * self", "3 * self"), monkeypatch)
    assert describe_modules(edited) != first
    nested = torch.nn.Sequential(edited)
    before = describe_modules(nested)
    outside(tmp_path / "a.py", SOURCE, monkeypatch)
    assert describe_modules(nested) != before


def test_a_class_without_a_file_is_never_the_same() -> None:
    kind = type("Typed", (torch.nn.Module,), {"__module__": "__main__nowhere"})
    assert describe_modules(kind()) != describe_modules(kind())


def test_modules_of_torch_need_no_sources() -> None:
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3, stride=2), torch.nn.BatchNorm2d(4))
    text = describe_modules(module)
    assert text == describe_modules(module)
    assert "1: torch.nn.modules.batchnorm.BatchNorm2d" in text.splitlines()[2]
    assert len(text.splitlines()) == 3
    assert describe_modules(module.eval()) != text  # batch statistics or running ones

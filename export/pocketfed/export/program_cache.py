"""Exported programs, kept between runs: the same task, code and versions give the same program."""

import dataclasses
import hashlib
import inspect
import os
import re
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib import metadata, resources
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pocketfed.core.atomic import write_atomically
from pocketfed.core.learning_step import Method

KEPT = 32
"""Programs kept; the least recently used go first."""

PACKAGES = ("torch", "executorch", "torchaudio", "torchvision", "timm")
"""Packages whose version may change what a program computes."""


def cache_folder() -> Path:
    """`$POCKETFED_CACHE`, or `pocketfed` in the user's cache folder."""
    if chosen := os.environ.get("POCKETFED_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pocketfed"


def cached_program(
    description: str, methods: Sequence[Method], build: Callable[[Sequence[Method]], bytes]
) -> bytes:
    """The program of these methods, built if it is not in the cache. A cache that cannot be used is none.

    Args:
        description: everything that distinguishes the methods besides names and shapes: view ranges, the optimiser,
            and `describe_modules` of the encoder.
        methods: the program's methods.
        build: makes the program.
    """
    name = f"{_key(description, methods)}.pte"
    with suppress(OSError, RuntimeError):
        return _recall(name)
    program = build(methods)
    with suppress(OSError, RuntimeError):
        _keep(name, program)
    return program


def describe_modules(module: torch.nn.Module) -> str:
    """What a module computes, as far as that can be told without running it; the same in every process.

    For it and every module in it: name, class, settings (`extra_repr` and plain attributes), shapes of parameters,
    values of buffers; then digests of the files that define those classes and their bases, unless torch does. A class
    without a file, typed in by hand, never has the same description twice. Code that a class calls in other files is
    not seen.
    """
    lines, classes = [], set[type]()
    ordinary = vars(torch.nn.Module())
    for name, part in module.named_modules(remove_duplicate=False):
        settings = {key: describe(value) for key, value in vars(part).items() if key not in ordinary}
        weights = {key: tuple(value.shape) for key, value in part.named_parameters(recurse=False)}
        buffers = {key: describe(value) for key, value in part.named_buffers(recurse=False)}
        lines.append(
            f"{name}: {_named(type(part))} {part.training} {describe(part.extra_repr())} {settings} {weights} {buffers}"
        )
        classes.update(
            c for c in type(part).__mro__ if c.__module__.split(".")[0] not in ("torch", "builtins")
        )
    return "\n".join(lines + sorted(f"{_named(c)}: {_source(c)}" for c in classes))


def describe(value: Any) -> str:
    """A value without the addresses that differ between processes; tensors and arrays, in collections too, as digests.

    Not by `repr`, which leaves out what lies between the ends of a large one.
    """
    if isinstance(value, torch.Tensor):
        content = value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
        return f"{value.dtype} {tuple(value.shape)} {hashlib.sha256(content).hexdigest()}"
    if isinstance(value, np.ndarray) and not value.dtype.hasobject:
        return f"{value.dtype} array {value.shape} {hashlib.sha256(value.tobytes()).hexdigest()}"
    if isinstance(value, np.ndarray):
        return f"array {value.shape} {describe(value.ravel().tolist())}"
    if isinstance(value, (list, tuple)):
        return f"{_named(type(value))} {[describe(part) for part in value]}"
    if isinstance(value, (set, frozenset)):
        return f"{_named(type(value))} {sorted(describe(part) for part in value)}"
    if isinstance(value, dict):
        parts = [(describe(key), describe(part)) for key, part in value.items()]
        return f"{_named(type(value))} {parts}"
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        return f"{_named(type(value))} {describe(fields)}"
    return re.sub(r" at 0x[0-9a-fA-F]+", "", repr(value))


def _named(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _source(kind: type) -> str:
    try:
        return hashlib.sha256(Path(inspect.getfile(kind)).read_bytes()).hexdigest()
    except (OSError, TypeError):
        return uuid.uuid4().hex


def _recall(name: str) -> bytes:
    path = cache_folder() / "programs" / name
    program = path.read_bytes()
    with suppress(OSError):  # somebody else's, to be read only
        os.utime(path)
    return program


def _keep(name: str, program: bytes) -> None:
    folder = cache_folder() / "programs"
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / name, program)
    for old in sorted(folder.glob("*.pte"), key=lambda p: p.stat().st_mtime)[:-KEPT]:
        old.unlink(missing_ok=True)


def _key(description: str, methods: Sequence[Method]) -> str:
    digest = hashlib.sha256(description.encode())
    for method in methods:
        shapes = [(str(tensor.dtype), tuple(tensor.shape)) for tensor in method.example]
        digest.update(f"{method.name}{shapes}".encode())
    for package in PACKAGES:
        digest.update(f"{package}{metadata.version(package)}".encode())
    return hashlib.sha256(digest.digest() + SOURCES).hexdigest()


def _sources() -> bytes:
    """A digest of the code that decides what a program computes."""
    digest = hashlib.sha256()
    for package in ("pocketfed.core", "pocketfed.export"):
        folder = Path(str(resources.files(package)))
        for path in sorted(folder.rglob("*.py")):
            digest.update(path.relative_to(folder).as_posix().encode())
            digest.update(path.read_bytes())
    return digest.digest()


SOURCES = _sources()
"""Taken on import: files edited later are not what this process runs."""

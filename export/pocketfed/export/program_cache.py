"""Exported programs, kept between runs: the same task, code and versions give the same program."""

import hashlib
import os
from collections.abc import Callable, Sequence
from importlib import metadata, resources
from pathlib import Path

from pocketfed.core.atomic import write_atomically
from pocketfed.core.learning_step import Method

KEPT = 32
"""Programs kept; the least recently used go first."""


def cache_folder() -> Path:
    """`$POCKETFED_CACHE`, or `pocketfed` in the user's cache folder."""
    if chosen := os.environ.get("POCKETFED_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pocketfed"


def cached_program(
    description: str, methods: Sequence[Method], build: Callable[[Sequence[Method]], bytes]
) -> bytes:
    """The program of these methods, built if it is not in the cache.

    Args:
        description: everything that distinguishes the methods besides names and shapes (backbone, view ranges, ...).
        methods: the program's methods.
        build: makes the program.
    """
    path = cache_folder() / "programs" / f"{_key(description, methods)}.pte"
    try:
        program = path.read_bytes()
        os.utime(path)
        return program
    except OSError:
        program = build(methods)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, program)
    for old in sorted(path.parent.glob("*.pte"), key=lambda p: p.stat().st_mtime)[:-KEPT]:
        old.unlink(missing_ok=True)
    return program


def _key(description: str, methods: Sequence[Method]) -> str:
    digest = hashlib.sha256(description.encode())
    for method in methods:
        shapes = [(str(tensor.dtype), tuple(tensor.shape)) for tensor in method.example]
        digest.update(f"{method.name}{shapes}".encode())
    for package in ("torch", "executorch", "torchaudio"):
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

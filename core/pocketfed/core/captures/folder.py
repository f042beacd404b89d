"""Folders of photos or sounds, as a user has them.

Sub-folders are classes, with files at any depth below them; files directly in the folder have no class.
Where the folder has both `train/` and `test/`, those are the two sides and anything beside them is ignored;
otherwise 20 % of each class is held out. Hidden files and files with other extensions are ignored.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from pocketfed.core.captures.captures import Captures, Split
from pocketfed.core.captures.decode import decode_photo, decode_sound
from pocketfed.core.captures.splitting import hold_out, photo_side, sound_split
from pocketfed.core.captures.windows import window_size
from pocketfed.core.errors import CaptureError

PHOTO_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
SOUND_SUFFIXES = (".wav", ".flac", ".ogg")
NAMED_FAILURES = 3
"""Files named in an error; the rest are counted."""

Decoded = TypeVar("Decoded")


@dataclass(frozen=True)
class Found:
    """Files of one modality.

    Attributes:
        paths: in the order of their names.
        labels: int64 [files], -1 where there is no sub-folder.
        classes: names of the sub-folders that hold at least one file, sorted.
        test: bool [files], true for the test side; both values occur.
    """

    paths: tuple[Path, ...]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    test: NDArray[np.bool_]


def photos_in_folder(folder: Path, side: int, seed: int) -> Split:
    """Photos of a folder, resized to `side`. `seed` draws what is held out.

    Raises:
        CaptureError: nothing to read, too little to split, or a file that cannot be read.
    """
    found = find(folder, PHOTO_SUFFIXES, "photos", seed)
    photos = _decode_all(found.paths, lambda path: decode_photo(path, side), folder, "photos")
    every = photo_side(np.stack(photos), found.labels, found.classes)
    return _split(every, found.test)


def sounds_in_folder(folder: Path, seconds: float, seed: int) -> Split:
    """Sounds of a folder, in windows of `seconds`. `seed` draws what is held out.

    Raises:
        CaptureError: nothing to read, too little to split, or a file that cannot be read.
    """
    size = window_size(seconds)
    found = find(folder, SOUND_SUFFIXES, "sounds", seed)
    sounds = _decode_all(found.paths, decode_sound, folder, "sounds")
    groups = np.full(len(sounds), -1, dtype=np.int64)
    return sound_split(sounds, found.labels, found.classes, groups, ~found.test, found.test, size)


def find(folder: Path, suffixes: tuple[str, ...], noun: str, seed: int) -> Found:
    """List the files of one modality in `folder`, with their classes and sides.

    Raises:
        CaptureError: no such file in the folder or on one of its sides, or too few to hold any out.
    """
    train, test = folder / "train", folder / "test"
    if os.path.isdir(train) and os.path.isdir(test):
        sides = [_list(train, suffixes, noun), _list(test, suffixes, noun)]
    else:
        sides = [_list(folder, suffixes, noun)]
    files = [file for side in sides for file in side]
    classes = tuple(sorted({name for _, name in files if name is not None}))
    labels = np.array([-1 if name is None else classes.index(name) for _, name in files], dtype=np.int64)
    if len(sides) == 2:
        held_out = np.arange(len(files)) >= len(sides[0])
    else:
        held_out = hold_out(labels, np.full(len(files), -1, dtype=np.int64), seed)
    if not held_out.any():
        raise CaptureError(
            f"{folder} has too few {noun} to hold 20 % of each class out for evaluation; "
            f"give at least one class two {noun}, or make train/ and test/ sub-folders."
        )
    return Found(tuple(path for path, _ in files), labels, classes, held_out)


def _list(folder: Path, suffixes: tuple[str, ...], noun: str) -> list[tuple[Path, str | None]]:
    """Files below `folder`, sorted, each with the name of its sub-folder of `folder`, if any."""
    found: list[tuple[Path, str | None]] = []
    try:
        for entry in sorted(folder.iterdir()):
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                found += [(path, entry.name) for path in _walk(entry, suffixes)]
            elif entry.suffix.lower() in suffixes:
                found.append((entry, None))
    except OSError as error:
        raise CaptureError(
            f"{error.filename} cannot be listed ({error.strerror}); make it readable or move it away."
        ) from error
    if not found:
        raise CaptureError(
            f"{folder} holds no {noun} ({', '.join(suffixes)}); "
            f"put some in it, in one sub-folder per class where the classes are known."
        )
    return found


def _walk(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """Files at any depth below `folder`, sorted; without hidden ones and links to folders."""

    def fail(error: OSError) -> None:
        raise error

    paths: list[Path] = []
    for parent, folders, names in os.walk(folder, onerror=fail):
        folders[:] = [name for name in folders if not name.startswith(".")]
        paths += [Path(parent, name) for name in names if not name.startswith(".")]
    return sorted(path for path in paths if path.suffix.lower() in suffixes)


def _decode_all(
    paths: tuple[Path, ...], decode: Callable[[Path], Decoded], folder: Path, noun: str
) -> list[Decoded]:
    """Decode every file, or fail once for all that cannot be decoded."""
    decoded: list[Decoded] = []
    failures: list[CaptureError] = []
    for path in paths:
        try:
            decoded.append(decode(path))
        except CaptureError as error:
            failures.append(error)
        except OSError as error:
            failures.append(CaptureError(f"{path} cannot be read ({error.strerror})"))
    if failures:
        named = "; ".join(str(failure) for failure in failures[:NAMED_FAILURES])
        more = f"; and {len(failures) - NAMED_FAILURES} more" if len(failures) > NAMED_FAILURES else ""
        raise CaptureError(
            f"{len(failures)} of {len(paths)} {noun} in {folder} cannot be used: {named}{more}; "
            "replace them or move them away."
        ) from failures[0]
    return decoded


def _split(captures: Captures, test: NDArray[np.bool_]) -> Split:
    return Split(captures.take(np.flatnonzero(~test)), captures.take(np.flatnonzero(test)))

"""Captures from a path: a folder of files, or one `.npz` file."""

import os
from pathlib import Path

from pocketfed.core.captures.captures import Split
from pocketfed.core.captures.folder import PHOTO_SUFFIXES, SOUND_SUFFIXES, photos_in_folder, sounds_in_folder
from pocketfed.core.captures.npz import photos_in_npz, sounds_in_npz
from pocketfed.core.errors import CaptureError


def load_photos(path: Path, side: int = 32, seed: int = 0) -> Split:
    """Load photos from a folder (`folder.py` says how it is read) or an `.npz` file (`npz.py` likewise).

    Args:
        path: the folder or the file.
        side: pixels; every photo is centre-cropped to a square and resized to it.
        seed: draws what is held out for the test side where `path` does not say.

    Raises:
        CaptureError: the path or something in it cannot be used; the message names it and the way out.
        ValueError: `side` is not positive.
    """
    if side < 1:
        raise ValueError(f"side is {side}, expected at least 1 pixel")
    if _is_folder(path, f"a folder of photos ({', '.join(PHOTO_SUFFIXES)})"):
        return photos_in_folder(path, side, seed)
    return photos_in_npz(path, side, seed)


def load_sounds(path: Path, seconds: float = 1.0, seed: int = 0) -> Split:
    """Load sounds from a folder (`folder.py` says how it is read) or an `.npz` file (`npz.py` likewise).

    Args:
        path: the folder or the file.
        seconds: length of the windows into which every sound is cut (`windows.cut` says how).
        seed: draws what is held out for the test side where `path` does not say.

    Raises:
        CaptureError: the path or something in it cannot be used; the message names it and the way out.
        ValueError: `seconds` is not a positive number.
    """
    if _is_folder(path, f"a folder of sounds ({', '.join(SOUND_SUFFIXES)})"):
        return sounds_in_folder(path, seconds, seed)
    return sounds_in_npz(path, seconds, seed)


def _is_folder(path: Path, wanted: str) -> bool:
    """Whether `path` is a folder, else an `.npz` file; anything else is a CaptureError."""
    if os.path.isdir(path):
        return True
    if not os.path.exists(path):
        raise CaptureError(f"{path} does not exist; give {wanted} or an .npz file.")
    if path.suffix.lower() != ".npz":
        raise CaptureError(f"{path} is neither a folder nor an .npz file; give {wanted} or an .npz file.")
    return False

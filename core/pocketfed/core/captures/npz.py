"""Captures from one `.npz` file, never through pickle.

Photos, with or without a test side:

    x_train, x_test     uint8 [count, height, width, 3], RGB          or  x
    y_train, y_test     integers [count], -1 where there is no label  or  y
    classes             strings, the names of the labels (optional)

Sounds:

    audio               int16 [count, samples], or float32 in [-1, 1]; mono at 16 kHz
    label               integers [count], -1 where there is none
    split               strings [count], "train", "val" or "test" (optional)
    speaker, source_id  integers or strings [count]: the groups, the first that is there (optional)
    classes             as above (optional)
    sample_rate         a number, must be 16000 (optional)

Sounds marked "val" are in neither side: whoever made the file set them apart for choosing settings, so they
must neither be trained on nor judge the encoder. Where the file has no sides, 20 % of each class is held
out, with groups kept whole. Other keys are ignored.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pocketfed.core.captures.archive import Archive, open_archive
from pocketfed.core.captures.captures import SAMPLE_RATE, Split
from pocketfed.core.captures.decode import square
from pocketfed.core.captures.splitting import hold_out, photo_side, sound_split
from pocketfed.core.captures.windows import Pcm, window_size
from pocketfed.core.errors import CaptureError

PHOTO_KEYS = ("x_train", "y_train", "x_test", "y_test", "x", "y", "classes")
SOUND_KEYS = ("audio", "label", "split", "speaker", "source_id", "classes", "sample_rate")


def photos_in_npz(path: Path, side: int, seed: int) -> Split:
    """Photos of an `.npz` file; those of another size are centre-cropped and resized to `side`.

    Raises:
        CaptureError: the file cannot be read, a key is missing, or its array is of another dtype or shape.
    """
    archive = open_archive(path, PHOTO_KEYS)
    if "x" in archive and "x_train" not in archive:
        items = _photos(archive, "x", side)
        labels = _labels(archive, "y", len(items))
        every = photo_side(items, labels, _classes(archive, labels))
        test = _held_out(archive, labels, every.groups, seed)
        return Split(every.take(np.flatnonzero(~test)), every.take(np.flatnonzero(test)))
    x_train, x_test = _photos(archive, "x_train", side), _photos(archive, "x_test", side)
    y_train, y_test = _labels(archive, "y_train", len(x_train)), _labels(archive, "y_test", len(x_test))
    classes = _classes(archive, np.concatenate([y_train, y_test]))
    return Split(photo_side(x_train, y_train, classes), photo_side(x_test, y_test, classes, len(x_train)))


def sounds_in_npz(path: Path, seconds: float, seed: int) -> Split:
    """Sounds of an `.npz` file, in windows of `seconds`; a clip is a row of `audio`.

    Raises:
        CaptureError: unreadable file, missing key, or array of a wrong dtype, shape or range.
    """
    size = window_size(seconds)
    archive = open_archive(path, SOUND_KEYS)
    audio = _sounds(archive)
    labels = _labels(archive, "label", len(audio))
    classes = _classes(archive, labels)
    groups = _groups(archive, len(audio))
    if "split" in archive:
        split = archive.column("split", len(audio), "U", "strings")
        names_right = bool(np.isin(split, ("train", "val", "test")).all())
        archive.check("split", names_right, 'only "train", "val" or "test"')
        train, test = split == "train", split == "test"
        archive.check("split", bool(train.any() and test.any()), 'at least one "train" and one "test"')
    else:
        test = _held_out(archive, labels, groups, seed)
        train = ~test
    return sound_split(audio, labels, classes, groups, train, test, size)


def _photos(archive: Archive, key: str, side: int) -> NDArray[np.uint8]:
    """uint8 [count, side, side, 3]."""
    expected = "uint8 [count, height, width, 3]"
    photos = archive.array(key, expected)
    right = photos.dtype == np.uint8 and photos.ndim == 4 and photos.shape[3] == 3 and photos.size > 0
    archive.check(key, right, expected)
    if photos.shape[1:3] == (side, side):
        return photos
    resized = np.empty((len(photos), side, side, 3), dtype=np.uint8)
    for row, photo in zip(resized, photos, strict=True):
        row[:] = square(Image.fromarray(photo), side)
    return resized


def _sounds(archive: Archive) -> Pcm:
    """int16 or float32 [count, samples]."""
    expected = "int16 or float32 [count, samples]"
    audio = archive.array("audio", expected)
    right = audio.dtype in (np.int16, np.float32) and audio.ndim == 2 and audio.size > 0
    archive.check("audio", right, expected)
    if audio.dtype == np.float32:
        in_range = bool(audio.min() >= -1 and audio.max() <= 1)  # false for NaN
        archive.check("audio", in_range, "finite samples in [-1, 1] where it is float32")
    if "sample_rate" in archive:
        rate = archive.arrays["sample_rate"]
        archive.check("sample_rate", rate.size == 1 and bool(np.all(rate == SAMPLE_RATE)), str(SAMPLE_RATE))
    return audio


def _labels(archive: Archive, key: str, count: int) -> NDArray[np.int64]:
    labels = archive.column(key, count, "iu", "integers").astype(np.int64)
    archive.check(key, bool((labels >= -1).all()), "labels from 0 up, or -1 where there is none")
    return labels


def _classes(archive: Archive, labels: NDArray[np.int64]) -> tuple[str, ...]:
    """The key `classes`, or the labels as digits where the file has none."""
    count = int(labels.max()) + 1
    if "classes" not in archive:
        return tuple(str(label) for label in range(count))
    classes = archive.arrays["classes"]
    right = classes.dtype.kind == "U" and classes.ndim == 1 and len(classes) >= count
    archive.check("classes", right, f"strings [at least {count}, as the labels go up to {count - 1}]")
    return tuple(str(name) for name in classes)


def _groups(archive: Archive, count: int) -> NDArray[np.int64]:
    """`speaker`, else `source_id`, renumbered from 0; else -1."""
    for key in ("speaker", "source_id"):
        if key in archive:
            names = archive.column(key, count, "iuU", "integers or strings")
            return np.unique(names, return_inverse=True)[1].astype(np.int64)
    return np.full(count, -1, dtype=np.int64)


def _held_out(
    archive: Archive, labels: NDArray[np.int64], groups: NDArray[np.int64], seed: int
) -> NDArray[np.bool_]:
    test = hold_out(labels, groups, seed)
    if not test.any():
        raise CaptureError(
            f"{archive.path} has too few captures to hold 20 % of each class out for evaluation; "
            "give at least one class two captures (of two groups, where known), or give the file a test side."
        )
    return test

"""Sounds of any length into windows of one length."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pocketfed.core.captures.captures import SAMPLE_RATE

Pcm = NDArray[np.int16] | NDArray[np.float32]
"""Samples of one sound: int16, or float32 in [-1, 1]."""

SILENCE = 1e-4
"""A window in which every |sample| is below this, in float32 units, is digital silence (-80 dBFS)."""

INT16_SCALE = 1 / 32768


@dataclass(frozen=True)
class Windows:
    """Windows of several sounds.

    Attributes:
        items: float32 [count, size], PCM in [-1, 1].
        sounds: int64 [count], the index of the sound that each window is from; never decreasing.
    """

    items: NDArray[np.float32]
    sounds: NDArray[np.int64]


def window_size(seconds: float) -> int:
    """Samples in a window.

    Raises:
        ValueError: `seconds` is not a positive finite number, or is under one sample.
    """
    if not 1 / SAMPLE_RATE <= seconds < float("inf"):
        raise ValueError(f"seconds is {seconds}, expected a positive number")
    return round(seconds * SAMPLE_RATE)


def cut(sounds: Sequence[Pcm], size: int) -> Windows:
    """Cut sounds into windows that do not overlap.

    A sound shorter than the window is padded with zeros at its end. A tail is padded too, or dropped when
    it is shorter than half a window. Windows of digital silence are dropped. Every sound keeps at least one
    window. The samples are copied once, into the result.

    Args:
        sounds: int16 or float32 [samples] each, none of them empty. Floats beyond [-1, 1] are clipped.
        size: samples in a window.

    Raises:
        ValueError: a sound is empty or not one-dimensional.
    """
    spans = [(index, start) for index, sound in enumerate(sounds) for start in _starts(sound, size)]
    items = np.zeros((len(spans), size), dtype=np.float32)
    for row, (index, start) in zip(items, spans, strict=True):
        piece = sounds[index][start : start + size]
        if piece.dtype == np.int16:
            np.multiply(piece, np.float32(INT16_SCALE), out=row[: len(piece)])
        else:
            np.clip(piece, -1.0, 1.0, out=row[: len(piece)])
    return Windows(items, np.array([index for index, _ in spans], dtype=np.int64))


def _starts(sound: Pcm, size: int) -> list[int]:
    """First samples of the windows to keep, at least one."""
    if sound.ndim != 1 or len(sound) == 0:
        raise ValueError(f"a sound has shape {sound.shape}, expected (samples,) and at least one sample")
    starts = [s for s in range(0, len(sound), size) if s == 0 or 2 * (len(sound) - s) >= size]
    return [s for s in starts if not _is_silent(sound[s : s + size])] or starts[:1]


def _is_silent(piece: Pcm) -> bool:
    limit = SILENCE / INT16_SCALE if piece.dtype == np.int16 else SILENCE
    return bool(piece.max() < limit and piece.min() > -limit)  # not abs(): that of int16 -32768 is negative

"""Which captures are held out, and the two sides put together. No clip is ever on both."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pocketfed.core.captures.captures import Captures, Split
from pocketfed.core.captures.windows import Pcm, cut
from pocketfed.core.modality import Modality

HELD_OUT = 0.2
"""The part of each class that `hold_out` gives to the test side."""


def hold_out(labels: NDArray[np.int64], groups: NDArray[np.int64], seed: int) -> NDArray[np.bool_]:
    """Choose a seeded 20 % of each class for the test side; the groups, where known, stay whole.

    A speaker who is heard in training and in the test flatters the encoder, so what is drawn is the group.
    A class with at least two groups is then on both sides. Where a group has captures of several classes,
    the draw cannot be made class by class: it is made over all groups at once, and a class may be missing
    from a side.

    Args:
        labels: int64 [count], -1 where there is none (treated as one more class).
        groups: int64 [count], -1 where unknown (the capture is then a group of its own).
        seed: the same seed gives the same choice.

    Returns:
        bool [count], true for the test side. All false when no class has two groups.
    """
    known = groups >= 0
    units = np.where(known, groups, groups.max(initial=0) + 1 + np.arange(len(groups)))
    _, first, unit = np.unique(units, return_index=True, return_inverse=True)
    stratum = labels[first]  # [units]
    if np.any(stratum[unit] != labels):
        stratum = np.zeros_like(stratum)
    rng = np.random.default_rng(seed)
    chosen = np.zeros(len(first), dtype=np.bool_)
    for value in np.unique(stratum):
        members = rng.permutation(np.flatnonzero(stratum == value))
        least = 1 if len(members) > 1 else 0
        chosen[members[: max(least, round(HELD_OUT * len(members)))]] = True
    return chosen[unit]


def photo_side(
    items: NDArray[np.uint8], labels: NDArray[np.int64], classes: tuple[str, ...], first_clip: int = 0
) -> Captures:
    """Photos as captures: no groups, each its own clip, numbered from `first_clip`.

    Args:
        items: uint8 [count, side, side, 3].
        labels: int64 [count].
    """
    clips = first_clip + np.arange(len(items), dtype=np.int64)
    return Captures(Modality.PHOTO, items, labels, classes, np.full(len(items), -1, dtype=np.int64), clips)


def sound_side(
    sounds: Sequence[Pcm] | Pcm,
    labels: NDArray[np.int64],
    classes: tuple[str, ...],
    groups: NDArray[np.int64],
    rows: NDArray[np.int64],
    size: int,
) -> Captures:
    """The sounds at `rows`, cut into windows of `size` samples; the clip of a window is the row of its sound.

    Args:
        sounds: int16 or float32 [samples] each, of any lengths; or one array [count, samples].
        labels: int64 [count].
        groups: int64 [count].
        rows: int64 [k], indices into the three above.
    """
    windows = cut([sounds[row] for row in rows], size)
    clips = rows[windows.sounds]
    return Captures(Modality.SOUND, windows.items, labels[clips], classes, groups[clips], clips)


def sound_split(
    sounds: Sequence[Pcm] | Pcm,
    labels: NDArray[np.int64],
    classes: tuple[str, ...],
    groups: NDArray[np.int64],
    train: NDArray[np.bool_],
    test: NDArray[np.bool_],
    size: int,
) -> Split:
    """Both sides of `sound_side`; `train` and `test` (bool [count]) say which sounds go where."""
    return Split(
        sound_side(sounds, labels, classes, groups, np.flatnonzero(train), size),
        sound_side(sounds, labels, classes, groups, np.flatnonzero(test), size),
    )

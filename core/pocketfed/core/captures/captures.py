"""Captures in memory: what a phone's camera or microphone recorded, plus what only evaluation may see."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pocketfed.core.modality import Modality

SAMPLE_RATE = 16_000
"""Hz; every sound is converted to it."""

Items = NDArray[np.uint8] | NDArray[np.float32]
"""Photos: uint8 [count, side, side, 3]. Sounds: float32 [count, samples]."""


@dataclass(frozen=True)
class Captures:
    """Captures of one modality, all of one shape.

    Attributes:
        modality: photo or sound.
        items: raw captures, the very arrays that a program takes.
            Photos: uint8 [count, side, side, 3], RGB.
            Sounds: float32 [count, samples], PCM in [-1, 1] at 16 kHz.
        labels: int64 [count], indices into `classes`; only evaluation looks at them. -1 where there is none.
        classes: the names of the labels.
        groups: int64 [count]; who or what made the capture (speaker, source recording), the natural key by
            which captures are dealt to phones. Equal to -1 everywhere when unknown.
        clips: int64 [count]; captures that are windows of one recording share a clip.
            Evaluation averages the embeddings of a clip. Each photo is a clip of its own.

    Raises:
        ValueError: an array has another shape or dtype than the above. Values are not looked at.
    """

    modality: Modality
    items: Items
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    groups: NDArray[np.int64]
    clips: NDArray[np.int64]

    def __post_init__(self) -> None:
        dtype, rank = (np.uint8, 4) if self.modality is Modality.PHOTO else (np.float32, 2)
        if self.items.dtype != dtype or self.items.ndim != rank:
            raise ValueError(
                f"items of modality {self.modality.value} are {self.items.dtype} "
                f"of {self.items.ndim} dimensions, expected {np.dtype(dtype)} of {rank}"
            )
        count = len(self.items)
        for name in ("labels", "groups", "clips"):
            array = getattr(self, name)
            if array.shape != (count,) or array.dtype != np.int64:
                raise ValueError(f"{name} is {array.dtype} {array.shape}, expected int64 ({count},)")

    def __len__(self) -> int:
        return len(self.items)

    def take(self, index: NDArray[np.int64]) -> "Captures":
        """The captures at `index` (int64 [k]), in that order."""
        return Captures(
            self.modality,
            self.items[index],
            self.labels[index],
            self.classes,
            self.groups[index],
            self.clips[index],
        )


@dataclass(frozen=True)
class Split:
    """The captures of one modality: `train` is dealt to phones, `test` only judges the encoder.

    Both sides have the same `classes`, and no clip is on both.
    """

    train: Captures
    test: Captures

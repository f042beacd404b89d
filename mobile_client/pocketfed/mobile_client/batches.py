"""The order in which a phone goes through its captures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pocketfed.core.modality import Modality

SMALLEST_REST = 8
"""A last batch of fewer captures is left out (another epoch shuffles anew), unless it is all the phone has."""

FEWEST = 2
"""The objective needs at least two captures: one to tell the other from."""


@dataclass(frozen=True)
class Batch:
    """Captures of one step: by modality, int64 indices into that modality's captures."""

    indices: Mapping[Modality, NDArray[np.int64]]

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """In the order of the step's inputs."""
        return tuple(self.indices)


@dataclass(frozen=True)
class Work:
    """What a round asks of one modality: `epochs` passes over `count` captures."""

    count: int
    epochs: int = 1


def sequential(work: Mapping[Modality, Work], size: int, rng: np.random.Generator) -> list[Batch]:
    """A round in which every batch has one modality; batches of different modalities are interleaved evenly.

    Args:
        work: by modality.
        size: captures per batch.
        rng: shuffles the captures of each modality anew for each pass, in the order of `work`.
    """
    placed: list[tuple[float, int, Batch]] = []
    for order, (modality, asked) in enumerate(work.items()):
        chunks = [chunk for _ in range(asked.epochs) for chunk in _chunks(asked.count, size, rng)]
        for i, chunk in enumerate(chunks):
            placed.append(((i + 0.5) / len(chunks), order, Batch({modality: chunk})))
    return [batch for _, _, batch in sorted(placed, key=lambda item: item[:2])]


def mixed(work: Mapping[Modality, Work], size: int, rng: np.random.Generator) -> list[Batch]:
    """A round in which every batch has `size // 2` captures of each of two modalities.

    As many batches as `sequential` would make; the modality with less work is gone through more often. A phone with
    one modality trains on it alone.
    """
    usable = {modality: asked for modality, asked in work.items() if asked.count >= FEWEST}
    if len(usable) < 2:
        return sequential(work, size, rng)
    half = size // len(usable)
    steps = max(1, sum(asked.count * asked.epochs for asked in usable.values()) // size)
    streams = {modality: _endless(asked.count, steps * half, rng) for modality, asked in usable.items()}
    return [
        Batch({m: _distinct(stream[step * half : (step + 1) * half]) for m, stream in streams.items()})
        for step in range(steps)
    ]


def _chunks(count: int, size: int, rng: np.random.Generator) -> Sequence[NDArray[np.int64]]:
    order = rng.permutation(count)
    chunks = [order[start : start + size] for start in range(0, count, size)]
    if len(chunks) > 1 and len(chunks[-1]) < min(SMALLEST_REST, size):
        chunks.pop()
    return [chunk for chunk in chunks if len(chunk) >= FEWEST]


def _endless(count: int, length: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Whole shuffles of range(count), one after another, cut to `length`."""
    shuffles = [rng.permutation(count) for _ in range(-(-length // count))]
    return np.concatenate(shuffles)[:length]


def _distinct(window: NDArray[np.int64]) -> NDArray[np.int64]:
    """Without repetitions, in order: a capture that met itself in a batch would be its own negative."""
    _, first = np.unique(window, return_index=True)
    return window[np.sort(first)]

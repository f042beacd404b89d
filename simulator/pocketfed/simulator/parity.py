"""How far a program of a bundle is from eager PyTorch, and what both are given."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pocketfed.core.bundle import Bundle
from pocketfed.core.learning_step import embedding
from pocketfed.core.learning_task import LearningTask
from pocketfed.core.modality import Modality
from pocketfed.export.bound import bound_head
from pocketfed.simulator.manifest_check import head_of

CAPTURES_EACH = 64
"""Captures of each modality that inference programs are compared on."""

BOUNDS = {
    "float32": 1e-4,
    "int8": 0.5,
    "exact": 5e-3,  # the weights are stored in half precision
    "declared": 3e-2,
    "exact, int8": 0.5,
    "declared, int8": 0.5,
    "exact, palette6": 0.5,
    "declared, palette6": 0.5,
}
"""Largest error that is accepted, as a share of the largest magnitude, by precision."""

MOST_LOST = 0.5
"""Largest share that is accepted of what tells captures apart; 1 is what a program that ignores its captures loses."""

MARGIN = 10.0
"""How many times as far as such noise moves eager PyTorch's result a program may be from it."""

MOST_CHAOS = 0.25
"""Above which no noise moves the bound: a part of a gradient that is lost is off by 1."""


@dataclass(frozen=True)
class Parity:
    """How far a program is from eager PyTorch.

    Attributes:
        program: its file.
        what: the method or function, and what of it.
        precision: a key of `BOUNDS`.
        error: the largest, as a share of the largest magnitude.
        chaos: how far rounding alone moves eager PyTorch's result, see `chaos_of`: at the kinks of ReLUs it turns
            gradients on and off. 0 where nobody looked, since the error is small enough without.
        lost: of embeddings and scores, the share of what tells captures apart that is lost, see `lost_of`. An encoder
            whose results differ little from capture to capture is near all of them with any constant.
        place: the part of the result that is worst, where it is judged part by part.
    """

    program: str
    what: str
    precision: str
    error: float
    chaos: float = 0.0
    lost: float = 0.0
    place: str = ""

    @property
    def bound(self) -> float:
        """The largest error that is accepted."""
        return max(BOUNDS[self.precision], min(MARGIN * self.chaos, MOST_CHAOS))

    @property
    def agrees(self) -> bool:
        """Whether what is off is accepted."""
        return self.error <= self.bound and self.lost <= MOST_LOST


def embedded(
    bundle: Bundle, task: LearningTask, modality: Modality, captures: Tensor, classify: bool = False
) -> Tensor:
    """What eager PyTorch makes of captures with the bundle's weights, float32 [n, features].

    With `classify`, the scores of the head that the manifest names, float32 [n, classes].

    Raises:
        BundleError: the manifest names a head that is no file of the bundle.
    """
    head = head_of(bundle, modality) if classify else None
    with torch.no_grad():
        features = embedding(task, modality)(torch.from_numpy(bundle.weights.copy()), captures)[0]
        result: Tensor = bound_head(head)(features)
    return result


def whole_batches(count: int, size: int) -> NDArray[np.intp]:
    """Indices of so many captures in whole batches, [batches, size]; the last is filled up by repeating captures.

    >>> whole_batches(3, 2).tolist()
    [[0, 1], [2, 0]]
    """
    return np.resize(np.arange(count), (-(-count // size), size))


def in_batches(
    run: Callable[[NDArray[Any]], Tensor], captures: NDArray[Any], batch: int, wanted: Tensor
) -> tuple[Tensor, Tensor]:
    """What a program that takes whole batches makes of all captures, and what it should, both [k batch, m].

    Args:
        run: the program, [batch, ...] -> float32 [batch, m].
        captures: [n, ...], as many as there are.
        batch: that the program takes.
        wanted: float32 [n, m].
    """
    index = whole_batches(len(captures), batch)
    found = torch.cat([run(captures[rows]) for rows in index])
    return found, wanted[torch.from_numpy(index.reshape(-1))]


def lost_of(found: Tensor, wanted: Tensor) -> float:
    """|found - wanted| / |wanted - mean of wanted|, both [n, m], the mean over n: 1 for that very mean in every row.

    >>> lost_of(torch.tensor([[2.0], [2.0]]), torch.tensor([[1.0], [3.0]]))
    1.0
    """
    spread = (wanted - wanted.mean(0)).norm().clamp(min=1e-12)
    return float((found - wanted).norm() / spread)


def distance(found: Tensor, wanted: Tensor, least: float = 0.0) -> float:
    """The largest difference, as a share of the largest magnitude, or of `least` if that is more.

    Infinite if it is no number, as where a result is none.

    Raises:
        ValueError: they have different shapes.
    """
    if found.shape != wanted.shape:
        raise ValueError(f"it gives {list(found.shape)} in place of {list(wanted.shape)}")
    error = float((found - wanted).abs().max() / wanted.abs().max().clamp(min=max(least, 1e-12)))
    return math.inf if math.isnan(error) else error

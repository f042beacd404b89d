"""How far a program of a bundle is from eager PyTorch, and what both are given."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pocketfed.core.bundle import Bundle
from pocketfed.core.head import read_head
from pocketfed.core.hyper import HYPER
from pocketfed.core.learning_step import Method, embedding
from pocketfed.core.learning_task import LearningTask
from pocketfed.core.modality import Modality
from pocketfed.core.randomness import generator
from pocketfed.export.bound import bound_head

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

ROUNDING, DRAWS = 1e-6, 5
"""Relative noise on weights that is about what rounding does to sums of some hundred products; how often it is drawn."""

MARGIN = 3.0
"""How many times as far as such noise moves eager PyTorch's result a program may be from it."""

SMALL = 0.01
"""Largest number in the state that a step begins with, and the deviation of the weights from those of the round's beginning."""

PROXIMAL = 0.1
"""Strength of FedProx's term in steps that are compared."""


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
    """

    program: str
    what: str
    precision: str
    error: float
    chaos: float = 0.0
    lost: float = 0.0

    @property
    def bound(self) -> float:
        """The largest error that is accepted."""
        return max(BOUNDS[self.precision], MARGIN * self.chaos)

    @property
    def agrees(self) -> bool:
        """Whether what is off is accepted."""
        return self.error <= self.bound and self.lost <= MOST_LOST


def real_inputs(
    theta: NDArray[np.float32], method: Method, captures: Mapping[Modality, NDArray[Any]]
) -> list[Tensor]:
    """Weights as they are, real captures, random numbers for noise, the usual hyperparameters but for those of `_telling`.

    A step gets what it has in the middle of a round, since zeros would hide whether it heeds them: a state (of no
    negative numbers, as AdamW's squares are), and weights that have left those that the round began with.
    """
    rng = generator(0, method.name)
    weights = torch.from_numpy(theta.copy())
    inputs = [weights]
    if method.name.startswith("step"):
        state = SMALL * rng.random(len(method.example[1]), dtype=np.float32)
        drift = SMALL * rng.standard_normal(len(weights), dtype=np.float32)
        inputs += [torch.from_numpy(state), weights + torch.from_numpy(drift)]
    for blank in method.example[len(inputs) :]:
        modality = next((m for m, items in captures.items() if blank.shape[1:] == items.shape[1:]), None)
        if blank.dim() == 1:
            inputs.append(_telling(blank))
        elif modality is not None:
            inputs.append(torch.from_numpy(captures[modality][: len(blank)].copy()))
        else:
            inputs.append(torch.from_numpy(rng.random(tuple(blank.shape), dtype=np.float32)))
    return inputs


def _telling(hyper: Tensor) -> Tensor:
    """The vector of `Hyper` with FedProx's term on, and with one capture less that counts where more than two do."""
    hyper = hyper.clone()
    hyper[HYPER.index("proximal")] = PROXIMAL
    counts = hyper[len(HYPER) :]
    counts[counts > 2] -= 1
    return hyper


def compare_step(
    program: str, method: Method, inputs: Sequence[Tensor], found: Mapping[str, Tensor]
) -> list[Parity]:
    """A row for each result of a step or a gradient.

    Args:
        program: its file.
        method: in eager PyTorch.
        inputs: its arguments, the weights first.
        found: what the program makes of them, in the order of the method's results, by what rows call them.

    Raises:
        ValueError: the method has another number of results.
    """
    wanted = method.function(*inputs)
    rows = [
        Parity(program, what, "float32", distance(result, right.reshape(result.shape)))
        for (what, result), right in zip(found.items(), wanted, strict=True)
    ]
    if all(row.agrees for row in rows):
        return rows
    chaos = chaos_of(method, inputs, wanted)  # it takes several steps to say whether that is rounding
    return [replace(row, chaos=moved) for row, moved in zip(rows, chaos, strict=True)]


def chaos_of(method: Method, inputs: Sequence[Tensor], wanted: Sequence[Tensor]) -> list[float]:
    """How far rounding alone moves each result of a method: the largest of some draws of noise on its weights.

    Args:
        method: in eager PyTorch.
        inputs: its arguments, the weights first.
        wanted: what it makes of them.
    """
    moved = [0.0] * len(wanted)
    for draw in range(DRAWS):
        noise = torch.from_numpy(generator(0, "rounding", draw).standard_normal(len(inputs[0]), np.float32))
        results = method.function(inputs[0] * (1 + ROUNDING * noise), *inputs[1:])
        moved = [max(m, distance(r, w)) for m, r, w in zip(moved, results, wanted, strict=True)]
    return moved


def embedded(
    bundle: Bundle, task: LearningTask, modality: Modality, captures: Tensor, classify: bool = False
) -> Tensor:
    """What eager PyTorch makes of captures with the bundle's weights, float32 [n, features].

    With `classify`, the scores of the head that the manifest names, float32 [n, classes].
    """
    head = read_head(bundle.folder / bundle.manifest["classifiers"][modality]["head"]) if classify else None
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


def distance(found: Tensor, wanted: Tensor) -> float:
    """The largest difference, as a share of the largest magnitude."""
    return float((found - wanted).abs().max() / wanted.abs().max().clamp(min=1e-12))

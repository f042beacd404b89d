"""How far the learning step of a program is from eager PyTorch's: the gradient, and then what is made of it.

Through a network rounding can move a gradient far, since it turns parts of it on and off at the kinks of ReLUs. What comes
behind it, FedProx's term and the optimiser, is a short formula for each weight. So the two are compared apart. A step from
a state of zeros, without momentum, decay and that term, leaves its gradient in its state; that one is compared with eager
PyTorch's slice by slice, for else a layer that never learns would not be seen beside larger ones. A second step on the same
batch has all the terms, and must make of that very gradient what the formula does.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pocketfed.core.hyper import HYPER, Hyper
from pocketfed.core.layout import Layout
from pocketfed.core.learning_step import Method, updated
from pocketfed.core.learning_task import LearningTask
from pocketfed.core.modality import Modality
from pocketfed.core.randomness import generator
from pocketfed.simulator.parity import Parity, distance

ROUNDING, DRAWS = 1e-6, 5
"""Relative noise on weights that is about what rounding does to sums of some hundred products; how often it is drawn."""

DRIFT = 0.02
"""How far weights have left those of the beginning. Biases of 0 and scales of 1 would hide what heeds neither."""

LEAST = 0.1
"""Share of the largest magnitude of all slices that any is judged by at least. What is small may be a sum of large terms that
cancel, as of a scale before a norm, and rounding goes by the terms. With a bound of 1e-4 a slice is still seen to be lost that
has a hundred-thousandth of the largest one's magnitude."""

TELLING = Hyper(
    learning_rate=0.4, momentum=0.5, weight_decay=0.35, proximal=5.0, temperature=0.2, second_momentum=0.8, epsilon=1e-3
)  # fmt: skip
"""Of steps that are compared: no number is a default, which a program might have inside."""

BARE = replace(TELLING, momentum=0.0, weight_decay=0.0, proximal=0.0)
"""The same, without what joins the gradient."""

Run = Callable[[Sequence[Tensor]], Sequence[Tensor]]
"""Runs a method: its arguments in, its results out."""

Named = Mapping[str, Tensor]
"""Parts of a flat vector, by what rows call them."""


@dataclass(frozen=True)
class Slope:
    """Results of a step up to the gradient: float32 [1], [layout.trained], [p - trained], which may be empty."""

    loss: Tensor
    gradient: Tensor
    statistics: Tensor

    def groups(self, layout: Layout) -> dict[str, Named]:
        """What is judged together, part by part."""
        parts = {
            "loss": {"loss": self.loss},
            "gradient": _cut(layout, "gradient of", self.gradient),
            "statistics": _cut(layout, "", self.statistics, layout.trained),
        }
        return {what: group for what, group in parts.items() if group}


def compare_step(
    program: str, task: LearningTask, method: Method, run: Run, weights: NDArray[np.float32],
    captures: Mapping[Modality, NDArray[Any]],
) -> Iterator[Parity]:  # fmt: skip
    """Rows of one step of a program: loss, gradient, statistics if there are any, and what is made of the gradient.

    Args:
        program: its file.
        task: of the step.
        method: the step in eager PyTorch.
        run: the program's own.
        weights: of the bundle, float32 [p].
        captures: of each modality, at least a batch.

    Raises:
        ValueError: the program gives another number of results, or one of another size.
    """
    layout, size, begin = task.layout, task.state_size, torch.from_numpy(weights)
    theta, batch = elsewhere(task, weights), drawn_batch(method, captures)

    def arguments(theta: Tensor, state: Tensor, hyper: Hyper) -> list[Tensor]:
        return [theta, state, begin, *batch, telling(method, hyper)]

    def slope(results: Sequence[Tensor]) -> Slope:
        loss, after, state = _sized(results, [1, layout.size, size])
        return Slope(loss, state[: layout.trained], after[layout.trained :])

    def formula(gradient: Tensor, state: Tensor, hyper: Hyper) -> tuple[Tensor, Tensor]:
        rates = dict(zip(HYPER, telling(method, hyper), strict=False))
        return updated(task, theta, gradient, state, begin, rates)

    none = torch.zeros(size)
    bare = run(arguments(theta, none, BARE))
    found = slope(bare)
    yield from _compare_slopes(
        program,
        method,
        layout,
        theta,
        found,
        lambda near: slope(method.function(*arguments(near, none, BARE))),
    )
    # A state as large as the step itself makes one, whatever each of its numbers means to the optimiser.
    part = torch.from_numpy(generator(0, "state").uniform(0.5, 1.0, size).astype(np.float32))
    state = part * formula(found.gradient, none, TELLING)[1]
    loss, after, whole = _sized(run(arguments(theta, state, TELLING)), [1, layout.size, size])
    wanted, wanted_whole = formula(found.gradient, state, TELLING)
    pairs = [
        (
            _cut(layout, "change of", after[: layout.trained] - theta[: layout.trained]),
            _cut(layout, "change of", wanted - theta[: layout.trained]),
        ),
        (_state(task, whole), _state(task, wanted_whole)),
        (_state(task, bare[2]), _state(task, formula(found.gradient, none, BARE)[1])),
        (
            _cut(layout, "", after[layout.trained :], layout.trained),
            _cut(layout, "", found.statistics, layout.trained),
        ),
        ({"loss": loss}, {"loss": found.loss}),
    ]
    rows = [
        row for ours, right in pairs for row in _rows(program, f"{method.name}, update", ours, right, 0.0, [])
    ]
    yield _worst(rows)


def compare_gradient(
    program: str, task: LearningTask, method: Method, run: Run, weights: NDArray[np.float32],
    captures: Mapping[Modality, NDArray[Any]],
) -> Iterator[Parity]:  # fmt: skip
    """Rows of the gradient of a program that leaves the update to an app: loss, gradient, statistics if there are any.

    Args and errors are those of `compare_step`, for a method that `gradient_method` makes.
    """
    theta, layout = elsewhere(task, weights), task.layout
    sizes = [1, layout.trained, *([layout.size - layout.trained] if layout.buffers else [])]
    rest = [*drawn_batch(method, captures), telling(method, BARE)]

    def slope(results: Sequence[Tensor]) -> Slope:
        loss, gradient, *statistics = _sized(results, sizes)
        return Slope(loss, gradient, torch.cat([torch.zeros(0), *statistics]))

    found = slope(run([theta, *rest]))
    yield from _compare_slopes(
        program, method, layout, theta, found, lambda near: slope(method.function(near, *rest))
    )


def elsewhere(task: LearningTask, weights: NDArray[np.float32]) -> Tensor:
    """Weights that have left those given, float32 [p]: no bias of them is 0 and no scale 1; variances rise."""
    rng, trained = generator(0, "elsewhere"), task.layout.trained
    drift = DRIFT * rng.standard_normal(len(weights), dtype=np.float32)
    drift[trained:] = np.abs(drift[trained:])
    return torch.from_numpy(weights + drift)


def drawn_batch(method: Method, captures: Mapping[Modality, NDArray[Any]]) -> list[Tensor]:
    """Captures and noise of each modality, as a step takes them."""
    rng = generator(0, method.name)
    batch = []
    for blank in method.example:
        modality = next((m for m, items in captures.items() if blank.shape[1:] == items.shape[1:]), None)
        if blank.dim() > 1 and modality is not None:
            batch.append(torch.from_numpy(captures[modality][: len(blank)].copy()))
        elif blank.dim() > 1:
            batch.append(torch.from_numpy(rng.random(tuple(blank.shape), dtype=np.float32)))
    return batch


def telling(method: Method, hyper: Hyper) -> Tensor:
    """The vector of `hyper`: of each modality one capture less counts than of the one before, but two at least."""
    counts = method.example[-1][len(HYPER) :].tolist()
    return torch.from_numpy(hyper.vector([max(count - 1 - place, 2) for place, count in enumerate(counts)]))


def _compare_slopes(
    program: str,
    method: Method,
    layout: Layout,
    theta: Tensor,
    found: Slope,
    eager: Callable[[Tensor], Slope],
) -> Iterator[Parity]:
    wanted = eager(theta).groups(layout)

    @cache
    def rounded() -> Sequence[Mapping[str, Named]]:
        """Eager PyTorch's, a rounding away."""
        noise = (
            generator(0, "rounding", draw).standard_normal(len(theta), np.float32) for draw in range(DRAWS)
        )
        return [eager(theta * (1 + ROUNDING * torch.from_numpy(draw))).groups(layout) for draw in noise]

    ours = found.groups(layout)
    for what, right in wanted.items():
        least = LEAST * max(float(part.abs().max()) for part in right.values())
        row = _worst(_rows(program, f"{method.name}, {what}", ours[what], right, least, []))
        if not row.agrees:  # it takes several steps to say whether that is rounding
            near = [every[what] for every in rounded()]
            row = _worst(_rows(program, f"{method.name}, {what}", ours[what], right, least, near))
        yield row


def _rows(
    program: str, what: str, found: Named, wanted: Named, least: float, near: Sequence[Named]
) -> list[Parity]:
    """A row a part: its error, and how far rounding alone moves it."""
    rows = []
    for name, right in wanted.items():
        chaos = max((distance(every[name], right, least) for every in near), default=0.0)
        rows.append(Parity(program, what, "float32", distance(found[name], right, least), chaos, place=name))
    return rows


def _worst(rows: Sequence[Parity]) -> Parity:
    return max(rows, key=lambda row: row.error / row.bound)


def _sized(results: Sequence[Tensor], sizes: Sequence[int]) -> list[Tensor]:
    """Results as flat vectors: a scalar is one number in some runtimes and a list of one in others.

    Raises:
        ValueError: there are not as many, or one has another size.
    """
    if len(results) != len(sizes):
        raise ValueError(f"it gives {len(results)} results in place of {len(sizes)}")
    for result, size in zip(results, sizes, strict=True):
        if result.numel() != size:
            raise ValueError(f"it gives {list(result.shape)} in place of [{size}]")
    return [result.reshape(-1) for result in results]


def _cut(layout: Layout, what: str, vector: Tensor, begin: int = 0) -> dict[str, Tensor]:
    """A vector that has the numbers of a layout from `begin` on, slice by slice."""
    cut = {}
    for piece in layout.slices:
        first = piece.offset - begin
        if 0 <= first < len(vector):
            cut[f"{what} {piece.name}".strip()] = vector[first : first + piece.size]
    return cut


def _state(task: LearningTask, state: Tensor) -> dict[str, Tensor]:
    """Slice by slice of each of its vectors, and then the rest."""
    size = task.layout.trained
    parts = {"state's last numbers": state[task.optimiser.vectors * size :]} if task.optimiser.scalars else {}
    for number in range(task.optimiser.vectors):
        parts |= _cut(task.layout, f"state {number} of", state[number * size : (number + 1) * size])
    return parts

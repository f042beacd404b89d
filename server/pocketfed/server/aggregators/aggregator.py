"""What an aggregator is: a fold over updates, with memory O(model) whatever the number of phones."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from pocketfed.core.layout import Layout
from pocketfed.core.plan import Update

Memory = Mapping[str, NDArray[np.float32]]
"""What a rule keeps from one round to the next, by name; a checkpoint holds it beside the weights."""


BLOCK = 1 << 15
"""Weights that are worked on at a time, so that a core's cache holds them: 128 kB of float32, 256 kB of float64."""


SMALLEST = 1e-20
"""Sum of squares from which float32 is enough: what is below its own smallest number is no part of that."""


def distance(first: NDArray[np.float32], second: NDArray[np.float32]) -> float:
    """|first - second| of two float32 [p], right to 1e-6; not finite if and only if one of them is not.

    Blocks are of float32, which takes less than half of the time, and their squares are summed up in float64. Only what
    leaves the range of float32 is worked out again.
    """
    square = _squares(first, second, np.float32)
    if not SMALLEST <= square < math.inf:
        square = _squares(first, second, np.float64)
    return math.sqrt(square)


def _squares(first: NDArray[np.float32], second: NDArray[np.float32], kind: type[np.floating]) -> float:
    total, room = 0.0, np.empty(min(BLOCK, len(first)), kind)
    with np.errstate(over="ignore", invalid="ignore"):
        for start in range(0, len(first), BLOCK):
            part = first[start : start + BLOCK]
            difference = np.subtract(part, second[start : start + BLOCK], out=room[: len(part)], dtype=kind)
            total += float(difference @ difference)
    return total


@dataclass(frozen=True)
class GlobalModel:
    """What the server has between two rounds.

    Attributes:
        weights: float32 [p].
        memory: the rule's own, as the moments of a server optimiser; empty for most rules and before round 1.
    """

    weights: NDArray[np.float32]
    memory: Memory = field(default_factory=dict)


@dataclass(frozen=True)
class Broadcast:
    """What a round began with: the global weights that every phone was sent.

    Attributes:
        weights: float32 [p].
        layout: of the weights.
        round: from 1.
        memory: what the rule kept from the round before.
    """

    weights: NDArray[np.float32]
    layout: Layout
    round: int
    memory: Memory = field(default_factory=dict)

    @cached_property
    def norm(self) -> float:
        """Of the weights."""
        return distance(self.weights, np.zeros_like(self.weights))


class Fold(Protocol):
    """What every running state says of itself.

    Attributes:
        begun: what the round began with.
        updates: how many were added.
    """

    @property
    def begun(self) -> Broadcast: ...

    @property
    def updates(self) -> int: ...


State = TypeVar("State", bound=Fold)


class Aggregator(Protocol[State]):
    """A rule for turning a cohort's updates into new global weights, over a running state of its own type.

    `add` and `merge` may reuse the memory of the state they are given; only their result is to be used afterwards.
    A rule whose state is `Sums` is a sum: a tree of folds equals the flat fold up to rounding, and so do other orders. Any other rule says in its docstring what its state takes and whether parts of a cohort can be merged.
    """

    def start(self, begun: Broadcast) -> State:
        """An empty fold."""
        ...

    def add(self, state: State, update: Update) -> State:
        """Fold one update, which the guard has accepted."""
        ...

    def merge(self, first: State, second: State) -> State:
        """Join the folds of two parts of a cohort."""
        ...

    def finish(self, state: State) -> GlobalModel:
        """The new global model; the one that the round began with, memory included, if no update was added."""
        ...

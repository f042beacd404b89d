"""What an aggregator is: a fold over updates, with memory O(model) whatever the number of phones."""

from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from pocketfed.core.layout import Layout
from pocketfed.core.plan import Update


@dataclass(frozen=True)
class Broadcast:
    """What a round began with: the global weights that every phone was sent.

    Attributes:
        weights: float32 [p].
        layout: of the weights.
        round: from 1.
    """

    weights: NDArray[np.float32]
    layout: Layout
    round: int


@dataclass(frozen=True)
class Sums:
    """Running sums of a fold.

    Attributes:
        begun: what the round began with.
        total: float64 [p], weighted sum of the updates' weights.
        weight: float64 [slices], sum of the factors that each slice of the layout was given.
        updates: how many were added.
    """

    begun: Broadcast
    total: NDArray[np.float64]
    weight: NDArray[np.float64]
    updates: int


State = TypeVar("State")


class Aggregator(Protocol[State]):
    """A rule for turning a cohort's updates into new global weights, over a running state of its own type.

    `add` and `merge` may reuse the memory of the state they are given; only their result is to be used afterwards.
    For a rule that is a sum, a tree of folds equals the flat fold up to float64 rounding, and so do other orders.
    """

    @property
    def name(self) -> str:
        """As in configurations."""
        ...

    def start(self, begun: Broadcast) -> State:
        """An empty fold."""
        ...

    def add(self, state: State, update: Update) -> State:
        """Fold one update, which the guard has accepted."""
        ...

    def merge(self, first: State, second: State) -> State:
        """Join the folds of two parts of a cohort."""
        ...

    def finish(self, state: State) -> NDArray[np.float32]:
        """The new global weights, float32 [p]; those the round began with if no update was added."""
        ...

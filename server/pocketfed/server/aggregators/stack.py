"""The state of the robust rules, which look at all updates of a round at once, and what they share.

A round of n updates of p weights takes 4 n p bytes, where every other rule takes 8 p whatever the number of phones:
1,000 phones with a model of 2 MB are 2 GB. So these rules have a bound, `memory_mb`: no round wants more updates, and one that
comes on top is refused. The
union of two stacks is a stack: parts of a cohort can be merged, but not summed up, and an edge of a tree would have to
send all its updates to its parent.

Robust rules count every phone alike. To weight a phone by the number of examples that it claims, or by how late it
is, would let one that lies decide.
"""

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from pocketfed.core.errors import UpdateRejected
from pocketfed.core.layout import Layout
from pocketfed.core.plan import Update
from pocketfed.server.aggregators.aggregator import Broadcast, GlobalModel
from pocketfed.server.aggregators.room import Room
from pocketfed.server.aggregators.sums import same_round

log = logging.getLogger(__name__)

BLOCK = 1 << 18
"""Scalars that are worked on at a time, of all updates together: 1 MB."""


@dataclass(frozen=True)
class Stack:
    """All updates so far.

    Attributes:
        begun: what the round began with.
        kept: the weights of each, float32 [p].
    """

    begun: Broadcast
    kept: tuple[NDArray[np.float32], ...] = ()

    @property
    def updates(self) -> int:
        """How many were added."""
        return len(self.kept)

    def blocks(self) -> Iterator[tuple[slice, NDArray[np.float32]]]:
        """The updates piece by piece: (span of the weights, float32 [updates, span])."""
        width = max(1, BLOCK // max(1, len(self.kept)))
        for start in range(0, len(self.begun.weights), width):
            span = slice(start, start + width)
            yield span, np.stack([weights[span] for weights in self.kept])


@dataclass(frozen=True)
class KeepsAll(ABC):
    """A rule over a stack.

    Attributes:
        memory_mb: megabytes that the updates of a round may take together.
    """

    memory_mb: Annotated[int, Field(ge=1)] = 2048

    @property
    def fewest(self) -> int:
        """Updates without which there is no result."""
        return 1

    @property
    def discounts_late(self) -> bool:
        """See `Discounting`: no, because all count alike."""
        return False

    def room(self, layout: Layout) -> Room:
        """See `Roomy`."""
        return Room(self.fewest, self.memory_mb, 4 * layout.size)

    def start(self, begun: Broadcast) -> Stack:
        """See `Aggregator`."""
        return Stack(begun)

    def add(self, state: Stack, update: Update) -> Stack:
        """See `Aggregator`.

        Raises:
            UpdateRejected: the update is one too many for `memory_mb`.
        """
        self._check_memory(state.updates + 1, state.begun.layout)
        return Stack(state.begun, (*state.kept, update.weights))

    def merge(self, first: Stack, second: Stack) -> Stack:
        """See `Aggregator`.

        Raises:
            UpdateRejected: together they are too many for `memory_mb`.
        """
        begun = same_round(first.begun, second.begun)
        self._check_memory(first.updates + second.updates, begun.layout)
        return Stack(begun, first.kept + second.kept)

    def finish(self, state: Stack) -> GlobalModel:
        """See `Aggregator`."""
        if state.updates < self.fewest:
            if state.updates:
                log.warning(
                    "the weights stay: %d updates came, and %d are needed", state.updates, self.fewest
                )
            return GlobalModel(state.begun.weights, state.begun.memory)
        return GlobalModel(self.combine(state))

    @abstractmethod
    def combine(self, stack: Stack) -> NDArray[np.float32]:
        """The new weights, float32 [p], from the fewest updates at least."""

    def _check_memory(self, updates: int, layout: Layout) -> None:
        if (problem := self.room(layout).excess(updates)) is not None:
            raise UpdateRejected(problem)

"""The state of all rules that are weighted sums, and what they share.

Adding one update after the other to float64 sums is bound by memory: each would read and write all sums. So up to
`GROUP` updates wait; then a block of all of them at a time, small enough for a core's cache, is multiplied and summed
in float32, by BLAS, and added to the float64 sums. Against sums in float64 alone, a result differs by at most `GROUP`
roundings of float32, 1e-6 of the largest weight that took part, however many updates there are.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.linalg.blas import saxpy
from threadpoolctl import ThreadpoolController

from pocketfed.core.plan import Update
from pocketfed.server.aggregators.aggregator import BLOCK, Broadcast

GROUP = 16
"""Updates that wait to be added: the memory of a fold is that of its sums and of so many models."""

# It would spread each block over all cores, which is more work than the block.
_BLAS = ThreadpoolController().select(user_api="blas")

Waiting = list[tuple[NDArray[np.float32], tuple[float, ...]]]
"""Weights of updates, and the factor of each sum."""


@dataclass(frozen=True)
class Sums:
    """Running sums of a fold. Most rules have one; a rule that mixes several averages has one each.

    Attributes:
        begun: what the round began with.
        settled: float64 [sums, p]; read `total`, which has the waiting updates too.
        weight: float64 [sums, slices], sums of the factors that each slice of the layout was given.
        updates: how many were added.
        waiting: updates that are still to be added to what is settled.
    """

    begun: Broadcast
    settled: NDArray[np.float64]
    weight: NDArray[np.float64]
    updates: int
    waiting: Waiting = field(default_factory=list)

    @property
    def total(self) -> NDArray[np.float64]:
        """float64 [sums, p], weighted sums of the updates' weights; may be added to in place."""
        settle(self.settled, self.waiting)
        return self.settled


def empty(begun: Broadcast, sums: int = 1) -> Sums:
    """No update yet."""
    return Sums(begun, np.zeros((sums, begun.layout.size)), np.zeros((sums, len(begun.layout.slices))), 0)


def add_weighted(state: Sums, update: Update, *factors: float) -> Sums:
    """Add the update's weights to each total, times its factor, in place; every slice gets the same factor.

    The weights are kept for a while as they are: they must not be written to afterwards.
    """
    state.waiting.append((update.weights, factors))
    if len(state.waiting) == GROUP:
        settle(state.settled, state.waiting)
    for i, factor in enumerate(factors):
        state.weight[i] += factor
    return Sums(state.begun, state.settled, state.weight, state.updates + 1, state.waiting)


def settle(total: NDArray[np.float64], waiting: Waiting) -> None:
    """Add what waits to `total` (float64 [sums, p]), in place; nothing waits any longer."""
    if not waiting:
        return
    sums, size = total.shape
    room = np.empty(min(BLOCK, size), np.float32)
    with _BLAS.limit(limits=1):
        for start in range(0, size, BLOCK):
            blocks = [weights[start : start + BLOCK] for weights, _ in waiting]
            partial = room[: len(blocks[0])]
            for i in range(sums):
                np.multiply(blocks[0], waiting[0][1][i], out=partial)
                for block, (_, factors) in zip(blocks[1:], waiting[1:], strict=True):
                    saxpy(block, partial, a=factors[i])
                total[i, start : start + len(partial)] += partial
    waiting.clear()


def merge(first: Sums, second: Sums) -> Sums:
    """Sum of sums.

    Raises:
        ValueError: the two folds belong to different rounds or layouts.
    """
    begun = same_round(first.begun, second.begun)
    return Sums(
        begun, first.total + second.total, first.weight + second.weight, first.updates + second.updates
    )


def same_round(first: Broadcast, second: Broadcast) -> Broadcast:
    """What both parts of a cohort began with.

    Raises:
        ValueError: it is not the same.
    """
    same = first.round == second.round and first.layout == second.layout
    if not (same and np.array_equal(first.weights, second.weights)):
        raise ValueError("folds that began with different weights cannot be merged")
    return first


def mean(state: Sums, which: int = 0) -> NDArray[np.float32]:
    """Each slice's total divided by its weight; slices that nobody contributed to stay as they were."""
    begun, total = state.begun, state.total[which]
    result = np.empty_like(begun.weights)
    for part, weight in zip(begun.layout.slices, state.weight[which], strict=True):
        span = slice(part.offset, part.offset + part.size)
        if weight != 0:
            np.divide(total[span], weight, out=result[span], casting="same_kind")
        else:
            result[span] = begun.weights[span]
    return result

"""The state of all rules that are weighted sums, and what they share."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pocketfed.core.plan import Update
from pocketfed.server.aggregators.aggregator import Broadcast


@dataclass(frozen=True)
class Sums:
    """Running sums of a fold. Most rules have one; a rule that mixes several averages has one each.

    Attributes:
        begun: what the round began with.
        total: float64 [sums, p], weighted sums of the updates' weights.
        weight: float64 [sums, slices], sums of the factors that each slice of the layout was given.
        updates: how many were added.
    """

    begun: Broadcast
    total: NDArray[np.float64]
    weight: NDArray[np.float64]
    updates: int


def empty(begun: Broadcast, sums: int = 1) -> Sums:
    """No update yet."""
    return Sums(begun, np.zeros((sums, begun.layout.size)), np.zeros((sums, len(begun.layout.slices))), 0)


def add_weighted(state: Sums, update: Update, *factors: float) -> Sums:
    """Add the update's weights to each total, times its factor, in place; every slice gets the same factor."""
    for i, factor in enumerate(factors):
        state.total[i] += np.multiply(update.weights, factor, dtype=np.float64)
        state.weight[i] += factor
    return Sums(state.begun, state.total, state.weight, state.updates + 1)


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
    result = state.begun.weights.copy()
    for part, weight in zip(state.begun.layout.slices, state.weight[which], strict=True):
        if weight != 0:
            span = slice(part.offset, part.offset + part.size)
            result[span] = state.total[which, span] / weight
    return result

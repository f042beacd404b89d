"""What all rules that are weighted sums share."""

import numpy as np
from numpy.typing import NDArray

from pocketfed.core.plan import Update
from pocketfed.server.aggregators.aggregator import Broadcast, Sums


def empty(begun: Broadcast) -> Sums:
    """No update yet."""
    size = begun.layout.size
    return Sums(begun, np.zeros(size), np.zeros(len(begun.layout.slices)), 0)


def add_weighted(state: Sums, update: Update, factor: float) -> Sums:
    """Add `factor` times the update's weights to the total, in place; every slice gets the same factor."""
    state.total.__iadd__(np.multiply(update.weights, factor, dtype=np.float64))
    state.weight.__iadd__(factor)
    return Sums(state.begun, state.total, state.weight, state.updates + 1)


def merge(first: Sums, second: Sums) -> Sums:
    """Sum of sums.

    Raises:
        ValueError: the two folds belong to different rounds or layouts.
    """
    a, b = first.begun, second.begun
    if a.round != b.round or a.layout != b.layout or not np.array_equal(a.weights, b.weights):
        raise ValueError("folds that began with different weights cannot be merged")
    return Sums(a, first.total + second.total, first.weight + second.weight, first.updates + second.updates)


def mean(state: Sums) -> NDArray[np.float32]:
    """Each slice's total divided by its weight; slices that nobody contributed to stay as they were."""
    result = state.begun.weights.copy()
    for part, weight in zip(state.begun.layout.slices, state.weight, strict=True):
        if weight != 0:
            span = slice(part.offset, part.offset + part.size)
            result[span] = state.total[span] / weight
    return result

"""Random rounds for rules, and every registered rule as plain loops in float64, written from its formula alone."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from pocketfed.core.layout import Layout, Role, Slice
from pocketfed.core.modality import Modality
from pocketfed.core.plan import Update
from pocketfed.server.aggregators import Aggregator, Broadcast, GlobalModel

Vector = NDArray[np.float32]
Exact = NDArray[np.float64]

CASES = {
    "seed": st.integers(0, 10_000),
    "parts": st.lists(st.tuples(st.sampled_from(list(Role)), st.integers(1, 20)), min_size=1, max_size=5),
    "phones": st.integers(1, 8),
    "round_number": st.integers(1, 6),
}
"""Arguments of `random_case`."""


def layout_of(parts: Sequence[tuple[Role, int]]) -> Layout:
    """A layout with these roles and sizes, in this order."""
    offsets = itertools.accumulate((size for _, size in parts), initial=0)
    return Layout(
        tuple(Slice(f"{role}.{i}", (n,), role, at) for i, ((role, n), at) in enumerate(zip(parts, offsets)))  # noqa: B905
    )


def backbone(*sizes: int) -> Layout:
    """A layout of slices of the backbone."""
    return layout_of([(Role.BACKBONE, size) for size in sizes])


def buffers(layout: Layout) -> NDArray[np.bool_]:
    """bool [p]: running statistics."""
    return np.array([part.role is Role.BUFFER for part in layout.slices for _ in range(part.size)])


def random_case(
    seed: int, parts: Sequence[tuple[Role, int]], phones: int, round_number: int
) -> tuple[Broadcast, list[Update]]:
    """A round: weights, and updates with counts, losses and discounts of their own; running statistics are positive."""
    rng = np.random.default_rng(seed)
    layout = layout_of(parts)
    positive = buffers(layout)

    def weights(mean: Vector | float) -> Vector:
        drawn = mean + rng.standard_normal(layout.size)
        return np.where(positive, np.abs(drawn), drawn).astype(np.float32)

    begun = Broadcast(weights(0.0), layout, round_number)
    updates = []
    for _ in range(phones):
        seen = {modality: int(rng.integers(0, 200)) for modality in Modality}
        examples = sum(seen.values()) + 1
        losses = {modality: float(rng.uniform(0, 4)) for modality in Modality}
        discount = float(rng.choice([1.0, 0.5]))
        updates.append(Update(weights(begun.weights), examples, seen, losses, discount=discount))
    return begun, updates


def fold(rule: Aggregator[Any], begun: Broadcast, updates: Sequence[Update]) -> GlobalModel:
    """All updates, one after the other."""
    state = rule.start(begun)
    for update in updates:
        state = rule.add(state, update)
    assert state.updates == len(updates)
    return rule.finish(state)


def tree(
    rule: Aggregator[Any], begun: Broadcast, updates: Sequence[Update], cuts: Sequence[int]
) -> GlobalModel:
    """Three parts of a cohort, the last two merged first."""
    first, second, third = (
        _partial(rule, begun, updates[a:b]) for a, b in itertools.pairwise([0, *sorted(cuts), len(updates)])
    )
    return rule.finish(rule.merge(first, rule.merge(second, third)))


def _partial(rule: Aggregator[Any], begun: Broadcast, updates: Sequence[Update]) -> Any:
    state = rule.start(begun)
    for update in updates:
        state = rule.add(state, update)
    return state


@dataclass
class Oracle:
    """A rule as plain loops over phones, slices and coordinates, with default settings; remembers its moments."""

    name: str
    momentum: Exact | None = None
    second: Exact | None = None

    def __call__(self, begun: Broadcast, updates: list[Update]) -> Exact:
        """The new weights."""
        g = begun.weights.astype(float)
        stack = [u.weights.astype(float) for u in updates]
        counts = [u.examples * u.discount for u in updates]
        average = sum(n / sum(counts) * w for n, w in zip(counts, stack, strict=True))
        assert isinstance(average, np.ndarray)
        if self.name == "fedavg":
            return average
        if self.name.startswith("ldawa"):
            return average if begun.round <= 3 else self._ldawa(begun, g, stack)
        if self.name == "fedvssl":
            return self._fedvssl(begun, g, stack, updates, average)
        if self.name == "median":
            return np.array([_median(sorted(w[i] for w in stack)) for i in range(len(g))])
        if self.name == "trimmed-mean":
            cut = min(math.ceil(len(stack) / 10), (len(stack) - 1) // 2)
            columns = [sorted(w[i] for w in stack)[cut : len(stack) - cut] for i in range(len(g))]
            return np.array([sum(column) / len(column) for column in columns])
        if self.name.endswith("krum"):
            return self._krum(g, stack, 1 if self.name == "krum" else len(stack) - 1)
        return self._optimiser(begun, g, average)

    def _ldawa(self, begun: Broadcast, g: Exact, stack: list[Exact]) -> Exact:
        result = np.zeros_like(g)
        for part in begun.layout.slices:
            span = slice(part.offset, part.offset + part.size)
            cosines = []
            for w in stack:
                norms = math.sqrt((w[span] ** 2).sum() * (g[span] ** 2).sum())
                cosines.append(min(1.0, (w[span] * g[span]).sum() / norms))
                result[span] += cosines[-1] * w[span]
            if self.name == "ldawa":
                result[span] /= len(stack)
            else:
                result[span] /= max(sum(cosines), 0.5 * len(stack))
        return result

    def _fedvssl(
        self, begun: Broadcast, g: Exact, stack: list[Exact], updates: list[Update], average: Exact
    ) -> Exact:
        factors = []
        for u in updates:
            captures = sum(u.seen.values())
            loss = sum(u.loss[m] * u.seen[m] for m in u.loss) / captures if captures else 50.0
            factors.append(u.discount * math.exp(-loss))
        by_loss = sum(e / sum(factors) * w for e, w in zip(factors, stack, strict=True))
        mixed: Exact = 0.9 * by_loss + 0.1 * average
        return mixed if begun.round == 1 else (mixed + g) / 2

    def _krum(self, g: Exact, stack: list[Exact], keep: int) -> Exact:
        n = len(stack)
        if n < 5:
            return g
        scores = []
        for a in stack:
            scores.append(sum(sorted(((a - b) ** 2).sum() for b in stack if b is not a)[: n - 3]))
        best = sorted(range(n), key=lambda k: scores[k])[:keep]
        chosen: Exact = sum((stack[k] for k in best), np.zeros_like(g)) / keep
        return chosen

    def _optimiser(self, begun: Broadcast, g: Exact, average: Exact) -> Exact:
        d, zeros = average - g, np.zeros_like(g)
        m = zeros if self.momentum is None else self.momentum
        v = zeros + 1e-6 if self.second is None else self.second
        if self.name == "fedavgm":
            m = 0.9 * m + d
            step = m
        else:
            m = d if self.name == "fedadagrad" else 0.9 * m + 0.1 * d
            v = {
                "fedadagrad": v + d**2,
                "fedyogi": np.where(v > d**2, v - 0.01 * d**2, np.where(v < d**2, v + 0.01 * d**2, v)),
                "fedadam": 0.99 * v + 0.01 * d**2,
            }[self.name]
            step = 0.01 * m / (np.sqrt(v) + 0.001)
        self.momentum, self.second = m, v
        return np.where(buffers(begun.layout), average, g + step)


def _median(column: list[float]) -> float:
    middle = len(column) // 2
    return column[middle] if len(column) % 2 else (column[middle - 1] + column[middle]) / 2

"""L-DAWA: layer-wise divergence-aware weight aggregation (Rehman et al., ICCV 2023).

For each layer l (here: each slice of the layout, one named tensor), with g the weights the round began with:

    c_k = min(1, <w_k, g> / (|w_k| |g|))        w = 1/K sum_k c_k w_k

The published rule, as its authors' code runs it, is a plain mean over the K phones: neither weighted by examples nor
divided by the sum of cosines. So it shrinks: identical phones w give c w, not w. A negative cosine is not clamped.
The first rounds are FedAvg (three in the authors' code).

It scales all tensors, running statistics included, and so do we. A late update counts in full after the warm-up,
so rounds that do not wait must shorten its step (`discounts_late`).

Our choices: a layer of norm zero, on either side, counts with c = 1, where the authors' code divides by zero; and
`normalise`, off by default, divides by sum_k c_k, so that identical phones give w, but by no less than `LEAST` per phone:
cosines of both signs add up to nothing, and what is divided by that has no bound. So a layer becomes no longer than
1 / `LEAST` times the longest of those that phones sent.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from pocketfed.core.plan import Update
from pocketfed.server.aggregators import sums
from pocketfed.server.aggregators.aggregator import Broadcast, GlobalModel
from pocketfed.server.aggregators.fedavg import FedAvg
from pocketfed.server.aggregators.sums import Sums
from pocketfed.server.aggregators.tree import Bounds

LEAST = 0.5
"""Sum of cosines, per phone, below which the normalised form divides by this and shrinks, as the published one does."""


def cosine(first: NDArray[np.float32], second: NDArray[np.float32]) -> float:
    """Of the angle between two vectors, at most 1; 1 where either is zero. Computed in float64."""
    a, b = first.astype(np.float64), second.astype(np.float64)
    norms = float(np.linalg.norm(a) * np.linalg.norm(b))
    return 1.0 if norms == 0.0 else min(1.0, float(a @ b) / norms)


@dataclass(frozen=True)
class LDawa:
    """See the module's docstring.

    Attributes:
        warmup: rounds of FedAvg before the rule takes over.
        normalise: divide by the sum of cosines (our extension) and not by the number of phones.
    """

    warmup: Annotated[int, Field(ge=0)] = 3
    normalise: bool = False

    @property
    def discounts_late(self) -> bool:
        """See `Discounting`: not after the warm-up."""
        return False

    def start(self, begun: Broadcast) -> Sums:
        """See `Aggregator`."""
        return sums.empty(begun)

    def add(self, state: Sums, update: Update) -> Sums:
        """See `Aggregator`."""
        begun = state.begun
        if begun.round <= self.warmup:
            return FedAvg().add(state, update)
        total = state.total
        for i, part in enumerate(begun.layout.slices):
            span = slice(part.offset, part.offset + part.size)
            factor = cosine(update.weights[span], begun.weights[span])
            total[0, span] += np.multiply(update.weights[span], factor, dtype=np.float64)
            state.weight[0, i] += factor if self.normalise else 1.0
        return Sums(begun, total, state.weight, state.updates + 1)

    def factors(self, begun: Broadcast, most_examples: int) -> Sequence[Bounds]:
        """See `Bounded`: a cosine where the rule divides by cosines, else one per phone."""
        if begun.round <= self.warmup:
            return [(0.0, float(most_examples))]
        return [(-1.0, 1.0) if self.normalise else (1.0, 1.0)]

    def merge(self, first: Sums, second: Sums) -> Sums:
        """See `Aggregator`."""
        return sums.merge(first, second)

    def finish(self, state: Sums) -> GlobalModel:
        """See `Aggregator`."""
        if self.normalise and state.begun.round > self.warmup:
            weight = np.maximum(state.weight, LEAST * state.updates)
            state = Sums(state.begun, state.total, weight, state.updates)
        return GlobalModel(sums.mean(state))

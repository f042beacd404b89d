"""FedVSSL: FedAvg mixed with a mean weighted by losses, and half of the model before (Rehman et al., ECCV 2022).

    w_avg  = sum_k n_k w_k / sum_k n_k
    w_loss = sum_k e_k w_k / sum_k e_k            e_k = exp(-loss_k)
    w      = alpha w_loss + (1 - alpha) w_avg
    w      = 1/2 w + 1/2 g                        from the second round on, if beta = 1; g is the model before

This is the rule as its authors' own code has it; Flower's baseline of this name swaps alpha's two sides and joins the
two lists of layers end to end, so it is another rule. alpha = beta = 0 is FedAvg. The paper sends the backbone alone
and leaves the heads on the phones; here that is a setting of what travels and not of the rule, which folds whatever
its layout holds.

Our choices: loss_k is the mean of a phone's losses by modality, weighted by the captures that it processed of each;
it is clamped to [0, `HIGHEST`], so that no loss that a phone may claim makes a sum overflow or vanish; a phone that
tells none counts with `HIGHEST`; a late update has its e_k discounted as its n_k is; where no update was added, the
model stays. A phone decides on its own weight here: whoever claims a loss of 0 has the greatest.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from pocketfed.core.plan import Update
from pocketfed.server.aggregators import sums
from pocketfed.server.aggregators.aggregator import Broadcast, GlobalModel
from pocketfed.server.aggregators.sums import Sums
from pocketfed.server.aggregators.tree import Bounds

HIGHEST = 50.0
"""Losses above it count as this much; exp(-50) is still far from the smallest float32."""


def mean_loss(update: Update) -> float:
    """Of all captures that the phone processed, in [0, `HIGHEST`]; `HIGHEST` if it tells no loss."""
    seen = {modality: update.seen.get(modality, 0) for modality in update.loss}
    if not (captures := sum(seen.values())):
        return HIGHEST
    total = sum(loss * seen[modality] for modality, loss in update.loss.items())
    return min(max(total / captures, 0.0), HIGHEST)


@dataclass(frozen=True)
class FedVssl:
    """See the module's docstring.

    Attributes:
        alpha: share of the mean weighted by losses; the paper's settings are 0, 0.9 and 1.
        beta: 1 keeps half of the model before, 0 nothing.
    """

    alpha: Annotated[float, Field(ge=0, le=1)] = 0.9
    beta: Literal[0, 1] = 1

    def start(self, begun: Broadcast) -> Sums:
        """See `Aggregator`."""
        return sums.empty(begun, 2)

    def add(self, state: Sums, update: Update) -> Sums:
        """See `Aggregator`."""
        return sums.add_weighted(state, update, update.count, update.discount * math.exp(-mean_loss(update)))

    def factors(self, begun: Broadcast, most_examples: int) -> Sequence[Bounds]:
        """See `Bounded`: examples, and exp(-loss) of a loss that is not negative."""
        return [(0.0, float(most_examples)), (0.0, 1.0)]

    def merge(self, first: Sums, second: Sums) -> Sums:
        """See `Aggregator`."""
        return sums.merge(first, second)

    def finish(self, state: Sums) -> GlobalModel:
        """See `Aggregator`."""
        by_count, by_loss = (sums.mean(state, which).astype(np.float64) for which in (0, 1))
        mixed = self.alpha * by_loss + (1 - self.alpha) * by_count
        if self.beta and state.begun.round > 1 and state.updates:
            mixed = 0.5 * mixed + 0.5 * state.begun.weights
        return GlobalModel(mixed.astype(np.float32))

"""FedAvg: the mean of the cohort's weights, each update counted by its examples (McMahan et al., 2017).

    w = sum_k n_k w_k / sum_k n_k

n_k counts the captures that phone k processed, of both modalities; less for an update that came late.
"""

from dataclasses import dataclass

from pocketfed.core.plan import Update
from pocketfed.server.aggregators import sums
from pocketfed.server.aggregators.aggregator import Broadcast, GlobalModel
from pocketfed.server.aggregators.sums import Sums


@dataclass(frozen=True)
class FedAvg:
    """See the module's docstring."""

    def start(self, begun: Broadcast) -> Sums:
        """See `Aggregator`."""
        return sums.empty(begun)

    def add(self, state: Sums, update: Update) -> Sums:
        """See `Aggregator`."""
        return sums.add_weighted(state, update, update.count)

    def merge(self, first: Sums, second: Sums) -> Sums:
        """See `Aggregator`."""
        return sums.merge(first, second)

    def finish(self, state: Sums) -> GlobalModel:
        """See `Aggregator`."""
        return GlobalModel(sums.mean(state))

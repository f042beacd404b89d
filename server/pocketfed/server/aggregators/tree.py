"""Rules in a tree of servers: which can be used there, and what an honest part of a cohort comes to.

A rule is a sum if its state is `Sums`: an edge server sends that state up, and its parent adds it to its own. Of what
a rule keeps from round to round an edge knows nothing, so `add` of such a rule must not depend on it.
"""

from collections.abc import Sequence
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np

from pocketfed.core.errors import ConfigError
from pocketfed.core.layout import Layout
from pocketfed.server.aggregators.aggregator import Aggregator, Broadcast
from pocketfed.server.aggregators.sums import Sums

Bounds: TypeAlias = tuple[float, float]
"""The least and the most."""


@runtime_checkable
class Bounded(Protocol):
    """A rule that says what the factors of one update can be. Other rules' lie between 0 and the update's examples."""

    def factors(self, begun: Broadcast, most_examples: int) -> Sequence[Bounds]:
        """Of each of its sums, for an honest update of this round."""
        ...


def factors_of(rule: Aggregator[Any], begun: Broadcast, most_examples: int) -> Sequence[Bounds]:
    """What the factors of one honest update can be, for each sum of a rule that is one."""
    if isinstance(rule, Bounded):
        return rule.factors(begun, most_examples)
    return [(0.0, float(most_examples))] * (sums_of(rule, begun.layout) or 0)


def sums_of(rule: Aggregator[Any], layout: Layout) -> int | None:
    """How many sums a rule keeps; None if it is no sum."""
    state = rule.start(Broadcast(np.zeros(layout.size, np.float32), layout, 1))
    return len(state.total) if isinstance(state, Sums) else None


def fold_bytes(rule: Aggregator[Any], layout: Layout) -> int:
    """Bytes of the float64 sums that an edge server sends up; 0 of a rule that is no sum."""
    return 8 * (sums_of(rule, layout) or 0) * (layout.size + len(layout.slices))


def check_is_sum(name: str, rule: Aggregator[Any], layout: Layout) -> None:
    """Whether a rule can be used in a tree.

    Raises:
        ConfigError: it is no sum; what it keeps of a part of a cohort cannot be added to another part's.
    """
    if sums_of(rule, layout) is None:
        raise ConfigError(
            [f"aggregator: {name} is no sum, so edge servers cannot fold a part of it; choose one that is"]
        )

"""Rules that keep every update of a round until its end: what memory they take, and where they refuse."""

from typing import Any, Protocol, runtime_checkable

from pocketfed.core.layout import Layout
from pocketfed.server.aggregators.aggregator import Aggregator


@runtime_checkable
class Roomy(Protocol):
    """A rule whose demands grow with the number of phones, and may be more than there is, or more than come."""

    def check_room(self, phones: int, layout: Layout) -> None:
        """See the function of this name."""
        ...


def check_room(rule: Aggregator[Any], phones: int, layout: Layout) -> None:
    """Whether the rule can take a round of so many updates; rules that are sums always can.

    Args:
        rule: of the run.
        phones: updates that the round will have at most.
        layout: of the weights.

    Raises:
        ConfigError: they are too large together, or too few for the rule.
    """
    if isinstance(rule, Roomy):
        rule.check_room(phones, layout)

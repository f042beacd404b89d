"""Whether a rule lets an update count less that came late, where that is said by the update's weight in a mean."""

from typing import Any, Protocol, runtime_checkable

from pocketfed.server.aggregators.aggregator import Aggregator


@runtime_checkable
class Discounting(Protocol):
    """A rule that says whether it does. Of others it is believed: `Update.count` has the discount in it.

    Attributes:
        discounts_late: False if its result is the same whatever the `discount` of an update is.
    """

    @property
    def discounts_late(self) -> bool: ...


def discounts_late(rule: Aggregator[Any]) -> bool:
    """Whether the `discount` of an update changes what the rule makes of it."""
    return rule.discounts_late if isinstance(rule, Discounting) else True

"""How many updates a round can have: rules that keep all of them need memory, and some need a number of them."""

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from pocketfed.core.errors import ConfigError
from pocketfed.core.layout import Layout
from pocketfed.server.aggregators.aggregator import Aggregator


@dataclass(frozen=True)
class Room:
    """What a rule can take in one round; the default is that of a rule that is a sum.

    Attributes:
        fewest: updates without which it comes to no result, and leaves weights and memory as they are.
        memory_mb: megabytes that the updates of a round may take together; None if it keeps none of them.
        each: bytes of one update.
    """

    fewest: int = 1
    memory_mb: int | None = None
    each: int = 0

    @property
    def most(self) -> int | None:
        """Updates that there is memory for; None if their number does not matter."""
        return None if self.memory_mb is None else self.memory_mb * 10**6 // self.each

    def excess(self, updates: int) -> str | None:
        """Why so many updates are too many, or None if they are not."""
        if self.most is None or updates <= self.most:
            return None
        each, total = self.each / 1e6, self.each * updates / 1e6
        return (
            f"memory_mb: this rule keeps all updates of a round, and {updates} of {each:.1f} MB are {total:.0f} MB, more "
            f"than {self.memory_mb}; raise it, ask fewer phones in a round, or choose a rule that is a sum"
        )

    def check(self, updates: int) -> None:
        """Whether rounds of so many updates make sense.

        Raises:
            ConfigError: they are too large together, or too few for the rule.
        """
        if (problem := self.excess(updates)) is not None:
            raise ConfigError([f"aggregation.{problem}"])
        if updates < self.fewest:
            problem = (
                f"aggregation: the rule needs {self.fewest} updates in a round, and this one has {updates}; ask more "
                "phones, or let it expect fewer that lie"
            )
            raise ConfigError([problem])


@runtime_checkable
class Roomy(Protocol):
    """A rule with demands on the number of updates."""

    def room(self, layout: Layout) -> Room:
        """For updates of this layout, which is that of what travels."""
        ...


def room_of(rule: Aggregator[Any], layout: Layout) -> Room:
    """What a rule can take in one round, where this layout travels."""
    return rule.room(layout) if isinstance(rule, Roomy) else Room()

"""What the server decides for a run: the rule, the plan, and when a round begins and ends."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from pocketfed.core.layout import Layout
from pocketfed.core.plan import Plan
from pocketfed.core.randomness import generator
from pocketfed.core.travel import Travel
from pocketfed.server.aggregators import Aggregator, Broadcast, GlobalModel, Room, room_of
from pocketfed.server.guard import Guard
from pocketfed.server.share import count_with, share_of
from pocketfed.server.staleness import Staleness

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Terms:
    """When a round begins and ends.

    Attributes:
        participation: share of the eligible phones whose updates a round wants, in (0, 1].
        minimum: eligible phones without which no round begins.
        most: updates that a round wants at most, whatever the participation; None sets no bound.
        over_selection: share of phones that are asked on top, because some will not answer; the round ends when as
            many as wanted have answered.
        deadline: seconds that phones have for a round.
        quorum: share of the wanted updates without which a round does not count, in [0, 1].
        attempts: how often in a row a round may fail to reach the quorum.
        patience: seconds to wait for the minimum of phones.
        late: whether an update to the round before counts in the one that is running, brought up to date.
        in_order: whether updates are folded in the order of phone numbers, which makes a run the same to the last bit
            whichever phone is quickest, and keeps those in memory that came before their turn.
        count_refused: whether an answer that the guard refuses, or an error in training, is one of those that a round
            wants. It must be where updates are private: a phone's captures then decide nothing about who else is in the
            mean.
    """

    participation: float = 1.0
    minimum: int = 1
    most: int | None = None
    over_selection: float = 0.0
    deadline: float = 3600.0
    quorum: float = 0.0
    attempts: int = 1
    patience: float = 3600.0
    late: Literal["refuse", "count"] = "refuse"
    in_order: bool = True
    count_refused: bool = False


@dataclass(frozen=True)
class Buffered:
    """Rounds that do not wait for their phones: some are at work at any time, and a round is over after so many updates.

    Attributes:
        updates: that make a round, at least 1.
        concurrency: phones that are at work at any time, at least 1.
        staleness: what updates are worth that began with older weights.
    """

    updates: int
    concurrency: int
    staleness: Staleness


@dataclass(frozen=True)
class Rounds:
    """What the server decides for a run.

    Attributes:
        layout: of the whole model's weights.
        aggregator: the fold; it sees the part of the model that travels.
        plan: what phones do in a round, by its number.
        seed: of the run; samples cohorts.
        terms: when a round begins and ends.
        guard: bounds on updates.
        buffered: if rounds do not wait for their phones; None if they do.
        travel: what travels between server and phones, and how.
    """

    layout: Layout
    aggregator: Aggregator[Any]
    plan: Callable[[int], Plan]
    seed: int
    terms: Terms = field(default_factory=Terms)
    guard: Guard = field(default_factory=Guard)
    buffered: Buffered | None = None
    travel: Travel = field(default_factory=Travel)

    @property
    def staleness(self) -> Staleness:
        """What late updates are worth."""
        if self.buffered is not None:
            return self.buffered.staleness
        return Staleness(longest=1 if self.terms.late == "count" else 0)

    @property
    def room(self) -> Room:
        """How many updates the rule can take in a round."""
        return room_of(self.aggregator, self.layout.part(self.travel.roles))

    def fitted(self) -> "Rounds":
        """The same, with terms that the rule can keep: rounds begin with the phones that it needs, and want no more
        updates than it has memory for, those included that come late.

        Raises:
            ConfigError: its memory is too small for the fewest updates, or rounds that do not wait want too many or
                too few.
        """
        room, terms = self.room, self.terms
        if self.buffered is not None:
            room.check(self.buffered.updates)
            return replace(self, terms=replace(terms, minimum=max(terms.minimum, room.fewest)))
        parts = 2 if terms.late == "count" else 1  # late ones come on top
        room.check(parts * room.fewest)
        most = None if room.most is None else room.most // parts
        minimum = max(terms.minimum, count_with(room.fewest, terms.participation))
        if most is not None:
            log.info("the rule has rounds of %d phones at least, and of %d updates at most", minimum, most)
        return replace(self, terms=replace(terms, minimum=minimum, most=most))

    def begin(self, model: GlobalModel, number: int) -> Broadcast:
        """What the round of this number begins with: the part of the model that travels."""
        roles = self.travel.roles
        return Broadcast(
            self.layout.gather(model.weights, roles), self.layout.part(roles), number, model.memory
        )

    def objection(self, part: GlobalModel, begun: Broadcast) -> str | None:
        """Why a round cannot end with this model, or None. Noise that hides phones may move it as far as it likes."""
        return self.guard.objection(part.weights, begun, anywhere=self.terms.count_refused)

    def complete(self, part: GlobalModel, model: GlobalModel) -> GlobalModel:
        """The whole model again: `part` as a round left it, and of `model` what does not travel."""
        weights = self.layout.scatter(part.weights, self.travel.roles, model.weights)
        return GlobalModel(weights, part.memory)


def sample_cohort(
    phones: list[int], terms: Terms, seed: int, round_number: int, attempt: int = 0
) -> tuple[int, list[int]]:
    """How many updates a round wants, and the phones that it asks, in rising order.

    They are drawn anew each round and attempt without replacement, at least one, more by the over-selection.
    """
    wanted = max(1, share_of(len(phones), terms.participation))
    if terms.most is not None:
        wanted = min(wanted, terms.most)
    size = min(len(phones), share_of(wanted, 1 + terms.over_selection))
    key = (round_number, attempt) if attempt else (round_number,)
    chosen = generator(seed, "cohort", *key).choice(sorted(phones), size=size, replace=False)
    return wanted, sorted(int(phone) for phone in chosen)

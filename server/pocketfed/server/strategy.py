"""A round as Flower runs it: choose phones, send the plan and the weights, guard and fold what comes back."""

import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy
from numpy.typing import NDArray

from pocketfed.core.errors import UpdateRejected
from pocketfed.core.layout import Layout
from pocketfed.core.modality import Modality
from pocketfed.core.plan import Plan, Update
from pocketfed.core.randomness import generator
from pocketfed.server.aggregators import Aggregator, Broadcast
from pocketfed.server.guard import Guard
from pocketfed.server.messages import ARRAYS, CONFIG, pack_plan, pack_weights, unpack_update, unpack_weights


@dataclass(frozen=True)
class Failure:
    """A phone whose update did not count, and why."""

    phone: int
    reason: str


@dataclass(frozen=True)
class Outcome:
    """A finished round.

    Attributes:
        round: from 1.
        weights: the new global weights, float32 [p].
        loss: mean over the accepted updates, by modality, weighted by its captures.
        phones: how many updates were folded.
        failures: the phones whose updates were not.
        bytes_down, bytes_up: of arrays, to all phones and from all phones.
        seconds: from the first message to the last fold.
    """

    round: int
    weights: NDArray[np.float32]
    loss: dict[Modality, float]
    phones: int
    failures: tuple[Failure, ...]
    bytes_down: int
    bytes_up: int
    seconds: float


@dataclass(frozen=True)
class Rounds:
    """What the server decides for a run.

    Attributes:
        layout: of the weights.
        aggregator: the fold.
        plan: what phones do in a round, by its number.
        seed: of the run; samples cohorts.
        participation: share of the phones that each round asks, in (0, 1].
        guard: bounds on updates.
    """

    layout: Layout
    aggregator: Aggregator[Any]
    plan: Callable[[int], Plan]
    seed: int
    participation: float = 1.0
    guard: Guard = field(default_factory=Guard)


class FoldStrategy(Strategy):
    """Flower's strategy interface over a fold: replies are folded as they come and never kept.

    `Strategy.start` counts rounds from 1; a resumed run passes the number of rounds that are behind it.
    """

    def __init__(
        self,
        rounds: Rounds,
        roster: dict[int, int],
        behind: int = 0,
        answered: Callable[[int, int, int], None] = lambda round_, done, cohort: None,
        finished: Callable[[Outcome], None] = lambda outcome: None,
    ) -> None:
        """Prepare a run.

        Args:
            rounds: what the server decides.
            roster: {phone number: node id}.
            behind: rounds that earlier runs have finished.
            answered: called with (round, answers so far, cohort) after each answer.
            finished: called after each round, before the next one begins; persists it.
        """
        self._rounds, self._roster, self._behind = rounds, roster, behind
        self._answered, self._finished = answered, finished
        self._cohort: list[int] = []
        self._begun: Broadcast | None = None
        self._started = 0.0

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Draw the round's cohort; one message each, made when it is sent, all sharing one array."""
        number = self._behind + server_round
        self._begun = Broadcast(unpack_weights(arrays), self._rounds.layout, number)
        self._cohort = sample_cohort(
            list(self._roster), self._rounds.participation, self._rounds.seed, number
        )
        self._started = time.monotonic()
        plan = pack_plan(self._rounds.plan(number))
        content = RecordDict({ARRAYS: arrays, CONFIG: plan})
        return (
            Message(
                content, dst_node_id=self._roster[phone], message_type=MessageType.TRAIN, group_id=str(number)
            )
            for phone in self._cohort
        )

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Guard and fold each reply in turn; the result is the next round's weights, whatever phones did."""
        begun = cast(Broadcast, self._begun)
        fold = _Fold(self._rounds, begun)
        nodes = [self._roster[phone] for phone in self._cohort]
        for done, (phone, reply) in enumerate(zip(self._cohort, in_order(replies, nodes), strict=True), 1):
            fold.take(phone, reply)
            self._answered(begun.round, done, len(self._cohort))
        outcome = fold.outcome(len(self._cohort), time.monotonic() - self._started)
        self._finished(outcome)
        metrics = MetricRecord({f"loss-{modality}": loss for modality, loss in outcome.loss.items()})
        return pack_weights(outcome.weights), metrics

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Phones have no labels to evaluate on; the server judges."""
        return []

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """See `configure_evaluate`."""
        return None

    def summary(self) -> None:
        """The run's own report says more than a log line would."""


class _Fold:
    """The running state of one round's aggregation."""

    def __init__(self, rounds: Rounds, begun: Broadcast) -> None:
        self._rounds, self._begun = rounds, begun
        self._state = rounds.aggregator.start(begun)
        self._folded = 0
        self._failures: list[Failure] = []
        self._losses: dict[Modality, tuple[float, int]] = {}
        self._bytes_up = 0

    def take(self, phone: int, reply: Message | None) -> None:
        try:
            if reply is None:
                raise UpdateRejected("no answer in time")
            update = self._rounds.guard.check(unpack_update(reply), self._begun)
        except UpdateRejected as rejection:
            self._failures.append(Failure(phone, str(rejection)))
            return
        self._state = self._rounds.aggregator.add(self._state, update)
        self._folded += 1
        self._bytes_up += update.weights.nbytes
        self._count_loss(update)

    def _count_loss(self, update: Update) -> None:
        for modality, loss in update.loss.items():
            total, examples = self._losses.get(modality, (0.0, 0))
            seen = update.seen.get(modality, 0)
            self._losses[modality] = (total + loss * seen, examples + seen)

    def outcome(self, cohort: int, seconds: float) -> Outcome:
        return Outcome(
            round=self._begun.round,
            weights=self._rounds.aggregator.finish(self._state),
            loss={
                modality: total / examples
                for modality, (total, examples) in sorted(self._losses.items())
                if examples
            },
            phones=self._folded,
            failures=tuple(self._failures),
            bytes_down=cohort * self._begun.weights.nbytes,
            bytes_up=self._bytes_up,
            seconds=seconds,
        )


def sample_cohort(phones: list[int], participation: float, seed: int, round_number: int) -> list[int]:
    """The phones that a round asks, in rising order: at least one, drawn anew each round without replacement."""
    size = max(1, math.ceil(round(len(phones) * participation, 9)))
    chosen = generator(seed, "cohort", round_number).choice(sorted(phones), size=size, replace=False)
    return sorted(int(phone) for phone in chosen)


def in_order(replies: Iterable[Message], nodes: list[int]) -> Iterator[Message | None]:
    """Replies in the order of `nodes`, as soon as that order allows; None for a node that did not reply.

    Sums of floating-point numbers depend on their order, and a run must not depend on which phone is quickest. An
    engine that answers in order (ours does) makes this keep nothing. A second answer of a node is ignored.
    """
    waiting: dict[int, Message] = {}
    position = 0
    for reply in replies:
        waiting.setdefault(reply.metadata.src_node_id, reply)
        while position < len(nodes) and nodes[position] in waiting:
            yield waiting.pop(nodes[position])
            position += 1
    for node in nodes[position:]:
        yield waiting.pop(node, None)

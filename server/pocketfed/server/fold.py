"""The running state of one round: guard, fold, count."""

from collections.abc import Mapping
from typing import Any

from flwr.app import Message

from pocketfed.core.errors import UpdateRejected
from pocketfed.core.modality import Modality
from pocketfed.core.plan import Update
from pocketfed.core.wire import DECLINED
from pocketfed.server.aggregators import Aggregator, Broadcast
from pocketfed.server.guard import Guard
from pocketfed.server.messages import GONE, unpack_update
from pocketfed.server.outcome import Failure, Kind, Outcome


class Fold:
    """Takes the answers of a round one by one; each is checked, folded and dropped."""

    def __init__(
        self, aggregator: Aggregator[Any], guard: Guard, begun: Broadcast, oldest: int,
        count_refused: bool = False,
    ) -> None:  # fmt: skip
        """An empty fold.

        Args:
            aggregator: the rule.
            guard: bounds on updates.
            begun: what the round began with.
            oldest: updates of this round count, and of those between it and the one that is running.
            count_refused: see `Terms`.
        """
        self._aggregator, self._guard, self._begun, self._oldest = aggregator, guard, begun, oldest
        self._state = aggregator.start(begun)
        self._losses: dict[Modality, tuple[float, int]] = {}
        self._taken: set[int] = set()
        self._fresh, self._count_refused = 0, count_refused
        self._refused: set[int] = set()
        self._failures: dict[int, Failure] = {}
        self._bytes_up = 0

    @property
    def fresh(self) -> int:
        """Answers of this very round that count for its quorum; those that are late come on top."""
        return self._fresh + len(self._refused)

    def take(self, phone: int, reply: Message) -> None:
        """An answer; if it is not usable, that is this phone's failure and nobody else's."""
        if phone in self._taken:
            return  # a second answer, as after a late one that counted
        if reply.has_error():
            self._fail(phone, reply.error.reason or f"error {reply.error.code}", _kind_of(reply.error.code))
            return
        try:
            update = self._guard.check(unpack_update(reply), self._begun, self._oldest)
        except UpdateRejected as rejection:
            self._fail(phone, str(rejection), Kind.REFUSED)
            if self._count_refused and reply.metadata.group_id == str(self._begun.round):
                self._refused.add(phone)
            return
        self._state = self._aggregator.add(self._state, update)
        self._taken.add(phone)
        self._fresh += update.round == self._begun.round
        self._failures.pop(phone, None)
        self._refused.discard(phone)
        self._bytes_up += update.weights.nbytes
        self._count_loss(update)

    def late(self, phone: int) -> None:
        """An answer to a round that is over, and does not count."""
        self._fail(phone, "answered after its round was over", Kind.LATE)

    def silent(self, phone: int) -> None:
        """No answer by the deadline."""
        self._fail(phone, "no answer in time", Kind.SILENT)

    def outcome(self, asked: int, seconds: float, phases: Mapping[str, float], attempt: int) -> Outcome:
        """What the round came to; the fold is over."""
        return Outcome(
            round=self._begun.round,
            model=self._aggregator.finish(self._state),
            loss={
                modality: total / examples
                for modality, (total, examples) in sorted(self._losses.items())
                if examples
            },
            phones=len(self._taken),
            failures=self.failures,
            bytes_down=asked * self._begun.weights.nbytes,
            bytes_up=self._bytes_up,
            seconds=seconds,
            phases=phases,
            attempt=attempt,
        )

    @property
    def failures(self) -> tuple[Failure, ...]:
        """So far, in the order in which they happened."""
        return tuple(self._failures.values())

    def _fail(self, phone: int, reason: str, kind: Kind) -> None:
        self._failures.setdefault(phone, Failure(phone, reason[:500], kind))

    def _count_loss(self, update: Update) -> None:
        for modality, loss in update.loss.items():
            total, examples = self._losses.get(modality, (0.0, 0))
            seen = update.seen.get(modality, 0)
            self._losses[modality] = (total + loss * seen, examples + seen)


def _kind_of(code: int) -> Kind:
    if code == DECLINED:
        return Kind.DECLINED
    return Kind.SILENT if code in GONE else Kind.FAILED

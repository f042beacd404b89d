"""The running state of one round: guard, fold, count."""

from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any

from flwr.app import Message

from pocketfed.core.errors import UpdateRejected
from pocketfed.core.formats import Format, packed_size
from pocketfed.core.modality import Modality
from pocketfed.core.part import MOST_BUNDLES, Part
from pocketfed.core.plan import Update
from pocketfed.core.travel import Travel
from pocketfed.core.wire import DECLINED
from pocketfed.server.aggregators import Aggregator, Broadcast, GlobalModel, identity
from pocketfed.server.decoding import decoded
from pocketfed.server.guard import Guard
from pocketfed.server.guard_fold import check_part
from pocketfed.server.history import History
from pocketfed.server.messages import GONE, brings_fold, unpack_part, unpack_update
from pocketfed.server.outcome import Failure, Kind, Outcome
from pocketfed.server.staleness import Staleness


class Fold:
    """Takes the answers of a round one by one; each is checked, folded and dropped."""

    def __init__(
        self,
        aggregator: Aggregator[Any],
        guard: Guard,
        begun: Broadcast,
        history: History,
        staleness: Staleness,
        travel: Travel | None = None,
        count_refused: bool = False,
        edges: int = 0,
    ) -> None:
        """An empty fold.

        Args:
            aggregator: the rule.
            guard: bounds on updates.
            begun: what the round began with.
            history: what this round and those before it began with; updates of other rounds do not count.
            staleness: what late updates are worth.
            travel: how updates travel; as float32 if None.
            count_refused: see `Terms`.
            edges: of those that are asked, how many are edge servers: these are sent float32.
        """
        self._aggregator, self._guard, self._begun = aggregator, guard, begun
        self._history, self._staleness, self._travel = history, staleness, travel or Travel()
        self._state = aggregator.start(begun)
        self._losses: dict[Modality, tuple[float, int]] = {}
        self._ages: dict[int, int] = {}  # in rounds, by node whose answer counts
        self._fresh, self._updates, self._count_refused = 0, 0, count_refused
        self._refused: set[int] = set()
        self._failures: dict[int, Failure] = {}
        self._below: list[Failure] = []  # of phones behind edge servers
        self._bytes_up, self._edges = 0, edges
        self._bundles = Counter[str]()

    @property
    def fresh(self) -> int:
        """Answers of this very round that count for its quorum; those that are late come on top. An edge's is one."""
        return self._fresh + len(self._refused)

    def take(
        self, phone: int, reply: Message, sent: int, edge: bool = False, node: int | None = None
    ) -> Failure | None:
        """An answer; if it is not usable, that is this phone's failure and nobody else's, which is returned.

        Args:
            phone: its number.
            reply: the answer.
            sent: the round for which it was asked, as the server knows it.
            edge: whether it is an edge server, which may send a fold of its own phones' updates.
            node: Flower's id, which nobody can claim, as a phone can a number; None where numbers are as good.
        """
        node = phone if node is None else node
        if node in self._ages:
            return None  # a second answer, as after a late one that counted
        behind, base = self._begun.round - sent, self._history.versions.get(sent)
        if reply.has_error():
            kind = _kind_of(reply.error.code)
            self._count_unusable(node, kind, behind)
            return self._fail(node, phone, reply.error.reason or f"error {reply.error.code}", kind)
        if base is None or not 0 <= behind <= self._staleness.longest:
            return self._late(node, phone, behind)
        try:
            if not brings_fold(reply):
                self._add(self._checked(unpack_update(reply), base))
            elif edge:
                self._merge(phone, unpack_part(reply))
            else:
                raise UpdateRejected(
                    "a fold of updates, which only an edge server may send: pocketfed enrol --edge"
                )
        except UpdateRejected as rejection:
            self._count_unusable(node, Kind.REFUSED, behind)
            return self._fail(node, phone, str(rejection), Kind.REFUSED)
        self._ages[node] = behind
        self._fresh += behind == 0
        self._failures.pop(node, None)
        self._refused.discard(node)
        return None

    def _checked(self, update: Update, base: Broadcast) -> Update:
        """Decoded, guarded, and brought up to date from what its own round began with."""
        update = self._guard.check(decoded(update, base, self._travel), base)
        behind = self._begun.round - base.round
        return self._staleness.apply(update, base.weights, self._begun.weights, behind, base.layout)

    def silent(self, phone: int, node: int | None = None) -> Failure:
        """No answer by the deadline; the arguments are those of `take`."""
        return self._fail(phone if node is None else node, phone, "no answer in time", Kind.SILENT)

    def outcome(
        self, asked: int, seconds: float, phases: Mapping[str, float], attempt: int, closes: bool = True
    ) -> Outcome:
        """What the round came to; the fold is over.

        Args:
            asked: phones that were sent weights.
            seconds: that it took.
            phases: what they were spent on.
            attempt: how many times it had to be begun anew.
            closes: whether the rule makes new weights of it; an edge server's part leaves that to its parent.
        """
        return Outcome(
            round=self._begun.round,
            model=self._aggregator.finish(self._state) if closes else GlobalModel(self._begun.weights),
            loss=self._loss,
            phones=self._updates,
            failures=self.failures,
            bytes_down=self._bytes_down(asked),
            bytes_up=self._bytes_up,
            seconds=seconds,
            phases=phases,
            attempt=attempt,
            staleness=tuple(self._ages.values()),
            bundles=self._most_bundles,
        )

    def part(self) -> Part:
        """What an edge server sends up; of a rule that is a sum."""
        kinds = Counter[str]()
        for failure in self.failures:
            kinds[failure.kind] += failure.count
        return Part(
            total=self._state.total,
            weight=self._state.weight,
            updates=self._updates,
            rule=identity(self._aggregator),
            seen={modality: examples for modality, (_, examples) in self._losses.items()},
            loss=self._loss,
            failures=kinds,
            bundles=self._most_bundles,
            round=self._begun.round,
            layout=self._begun.layout.digest,
        )

    @property
    def failures(self) -> tuple[Failure, ...]:
        """So far, in the order in which they happened; then those behind edge servers."""
        return (*self._failures.values(), *self._below)

    def nodes(self, kinds: Collection[Kind]) -> set[int]:
        """That failed in one of these ways themselves, not behind an edge server."""
        return {node for node, failure in self._failures.items() if failure.kind in kinds}

    @property
    def updates(self) -> int:
        """Folded so far, those of phones behind edge servers included."""
        return self._updates

    def _bytes_down(self, asked: int) -> int:
        layout = self._begun.layout
        plain, exact = (packed_size(layout, form) for form in (self._travel.down, Format.FLOAT32))
        return (asked - self._edges) * plain + self._edges * exact

    @property
    def _loss(self) -> dict[Modality, float]:
        return {
            modality: total / examples
            for modality, (total, examples) in sorted(self._losses.items())
            if examples
        }

    @property
    def _most_bundles(self) -> dict[str, int]:
        return dict(self._bundles.most_common(MOST_BUNDLES))

    def _add(self, update: Update) -> None:
        self._state = self._aggregator.add(self._state, update)
        self._updates += 1
        if update.bundle:
            self._bundles[update.bundle] += 1
        self._bytes_up += packed_size(self._begun.layout, self._travel.up)
        for modality, loss in update.loss.items():
            self._count_loss(modality, loss, update.seen.get(modality, 0))

    def _merge(self, edge: int, part: Part) -> None:
        sums = check_part(part, self._begun, self._aggregator, self._guard)
        self._state = self._aggregator.merge(self._state, sums)
        self._updates += part.updates
        self._bundles.update(part.bundles)
        self._bytes_up += part.total.nbytes
        for modality, loss in part.loss.items():
            self._count_loss(modality, loss, part.seen.get(modality, 0))
        for kind, count in part.failures.items():
            if count:
                reason = f"{count} behind this edge server, whose page and log say more"
                self._below.append(Failure(edge, reason, Kind(kind), count))

    def _count_unusable(self, node: int, kind: Kind, behind: int) -> None:
        """What captures can bring about, the guard's no and an error in training, must not change who else counts."""
        if self._count_refused and behind == 0 and kind in (Kind.REFUSED, Kind.FAILED):
            self._refused.add(node)

    def _late(self, node: int, phone: int, behind: int) -> Failure:
        allowed = self._staleness.longest
        reason = (
            f"answered {behind} rounds late, {allowed} count"
            if allowed
            else "answered after its round was over"
        )
        return self._fail(node, phone, reason, Kind.LATE)

    def _fail(self, node: int, phone: int, reason: str, kind: Kind) -> Failure:
        return self._failures.setdefault(node, Failure(phone, reason[:500], kind))

    def _count_loss(self, modality: Modality, loss: float, seen: int) -> None:
        total, examples = self._losses.get(modality, (0.0, 0))
        self._losses[modality] = (total + loss * seen, examples + seen)


def _kind_of(code: int) -> Kind:
    if code == DECLINED:
        return Kind.DECLINED
    return Kind.SILENT if code in GONE else Kind.FAILED

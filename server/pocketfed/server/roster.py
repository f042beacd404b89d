"""Who is there: Flower's nodes, and what each phone says of itself."""

import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from flwr.serverapp import Grid

from pocketfed.core.errors import NoPhonesError, UpdateRejected
from pocketfed.core.modality import Modality
from pocketfed.core.plan import PhoneStatus
from pocketfed.server.messages import ask_status, is_gone, unpack_status
from pocketfed.server.watch.records import printable

log = logging.getLogger(__name__)

ANSWER_WITHIN = 120.0
"""Seconds after which a phone that was asked for its status is asked again. One that is idle looks every 36."""

REST, LONGEST_REST = 30.0, 900.0
"""Seconds for which a phone whose answer was a no is not asked to train: the first, doubled with each no that comes within
the second of the rest before, up to the second."""

MOST_AWAY = 10_000
"""Phones that are not there, and are remembered all the same; of more, those that answered last."""

MOST_REASONS = 10
"""Why phones are left out that are told one by one, since strangers say what they like."""


@dataclass(frozen=True)
class Requirements:
    """What a phone must say of itself to be chosen.

    Attributes:
        modalities: of which it must hold captures.
        free_memory: bytes, at least.
        charging: whether it must be connected to power.
        app_version: at least, compared number by number ("1.10" is later than "1.9").
        layout: digest of the layout of its bundle; "" accepts any.
    """

    modalities: tuple[Modality, ...] = ()
    free_memory: int = 0
    charging: bool = False
    app_version: str = ""
    layout: str = ""

    def missing(self, status: PhoneStatus) -> str | None:
        """The first thing that a phone lacks, or None; the same words for all that lack the same."""
        for modality in self.modalities:
            if not status.captures.get(modality):
                return f"holds no {modality}s"
        if status.free_memory < self.free_memory:
            return f"has less free memory than the {self.free_memory / 1e6:g} MB that are asked for"
        if self.charging and not status.charging:
            return "is not charging"
        if version_of(status.app_version) < version_of(self.app_version):
            return f"has an app before version {self.app_version}, which is asked for"
        if self.layout and status.layout != self.layout:
            return "has another bundle"
        return None


def version_of(text: str) -> tuple[int, ...]:
    """The numbers of a version; anything else in it counts as 0. Of a long text, the first eight.

    >>> version_of("1.10.0") > version_of("1.9")
    True
    """
    return tuple(int(part) if part.isascii() and part.isdigit() else 0 for part in text[:40].split(".")[:8])


@dataclass
class Roster:
    """The phones that have said who they are, by Flower's node id. What they said is kept, and asked anew when it is old.

    A phone that did not answer in its round is benched: it is asked again who it is, and nothing else until it answers.
    One whose answer was a no rests: it is not asked to train for a while.

    Attributes:
        requirements: who may be chosen.
        status_age: seconds after which a status is asked for again; the old one counts until then.
        statuses: what phones said, in the order in which they claimed their numbers; a checkpoint keeps the order.
        strangers: what nodes said that did not say who they are.
        may_be_edge: whether a node may be an edge server; the operator says which.
        rests: whether phones rest; emulated ones need not, and a simulation must not wait for them.
    """

    requirements: Requirements = field(default_factory=Requirements)
    status_age: float = 600.0
    statuses: dict[int, PhoneStatus] = field(default_factory=dict)
    strangers: dict[int, str] = field(default_factory=dict)
    may_be_edge: Callable[[int], bool] = lambda node: False
    rests: bool = True
    _asked: dict[int, tuple[str, float]] = field(
        default_factory=dict
    )  # by node: the question, and when it was put
    _answered: dict[int, float] = field(default_factory=dict)
    _online: set[int] = field(default_factory=set)
    _benched: set[int] = field(default_factory=set)
    _rests: dict[int, tuple[float, float]] = field(default_factory=dict)  # by node: how long, until when
    _owing: dict[int, float] = field(
        default_factory=dict
    )  # by node: since when nothing was heard of what it was asked
    _grid: Grid | None = None  # to which the questions went

    def refresh(self, grid: Grid, now: Callable[[], float] = time.monotonic) -> None:
        """Look who is there, read what has been answered, and ask whoever has not said, or not lately."""
        if grid is not self._grid:
            self._grid, self._asked = grid, {}  # nobody answers what another run has asked
        self._online = set(grid.get_node_ids())
        self._rests = {node: rest for node, rest in self._rests.items() if rest[1] + LONGEST_REST > now()}
        self._read(grid, now())
        self._ask(grid, now())
        self._read(grid, now())  # an engine in this process has answered already

    def eligible(self, now: Callable[[], float] = time.monotonic) -> dict[int, int]:
        """Phones that may be chosen: {phone number: node id}, in rising order of the number.

        Numbers are free to claim. Of the nodes that are there and call themselves by one number, that phone is the one
        that said so first, also while it may not be chosen; whoever comes later cannot keep it out.
        """
        holders: dict[int, int] = {}
        moment = now()
        for node, status in self.statuses.items():
            if node in self._online:
                holders.setdefault(status.number, node)
        return {
            number: node for number, node in sorted(holders.items()) if self._hindrance(node, moment) is None
        }

    def left_out(self, now: Callable[[], float] = time.monotonic) -> dict[str, int]:
        """Why nodes that are there may not be chosen, and how many for each reason, the most frequent first."""
        chosen, moment = set(self.eligible(now).values()), now()
        reasons = Counter[str]()
        for node in sorted(self._online - chosen):
            reasons[self._hindrance(node, moment) or self._same_number(node)] += 1
        told = dict(reasons.most_common(MOST_REASONS))
        others = reasons.total() - sum(told.values())
        return told | ({"for other reasons": others} if others else {})

    def bench(self, nodes: Iterable[int]) -> None:
        """These did not answer: leave them out until they say again who they are."""
        for node in nodes:
            self._benched.add(node)
            self._answered.pop(node, None)

    def rest(self, nodes: Iterable[int], now: Callable[[], float] = time.monotonic) -> None:
        """These said no: do not ask them to train for a while, longer each time in a row."""
        for node in nodes if self.rests else ():
            before, _ = self._rests.get(node, (REST / 2, 0.0))
            seconds = min(LONGEST_REST, 2 * before)
            self._rests[node] = seconds, now() + seconds

    def owe(self, nodes: Iterable[int], patience: float, now: Callable[[], float] = time.monotonic) -> None:
        """These were not waited for; bench those of which nothing was heard for longer than the patience, in seconds."""
        moment = now()
        self.bench([node for node in nodes if moment - self._owing.setdefault(node, moment) > patience])

    def heard(self, node: int) -> None:
        """A node has answered what it was asked, whatever it said."""
        self._owing.pop(node, None)

    def counts(self) -> Mapping[str, int]:
        """How many phones are `seen`, `online`, `eligible` and `benched`."""
        return {
            "seen": len(self.statuses),
            "online": len(self._online),
            "eligible": len(self.eligible()),
            "benched": len(self._benched & self._online),
        }

    def is_edge(self, node: int) -> bool:
        """Whether a node is an edge server, by its own word and the operator's."""
        status = self.statuses.get(node)
        return status is not None and status.edge

    def _hindrance(self, node: int, moment: float) -> str | None:
        if (stranger := self.strangers.get(node)) is not None:
            return printable(stranger)
        if (status := self.statuses.get(node)) is None:
            return "has not said yet who it is"
        if node in self._benched:
            return "did not answer in time, and has not been heard since"
        if (missing := self.requirements.missing(status)) is not None:
            return missing
        _, until = self._rests.get(node, (0.0, moment))
        return "rests, because its last answer was a no" if until > moment else None

    def _same_number(self, node: int) -> str:
        return f"has the number {self.statuses[node].number}, as another phone has; give each its own"

    def _believed(self, node: int, status: PhoneStatus) -> PhoneStatus:
        if status.edge and not self.may_be_edge(node):
            raise UpdateRejected("it says that it is an edge server; its key was not enrolled with --edge")
        return status

    def _ask(self, grid: Grid, now: float) -> None:
        due = [
            node
            for node in sorted(self._online - self._asked.keys())
            if node not in self._answered or now - self._answered[node] > self.status_age
        ]
        if due:
            questions = [ask_status(node, ANSWER_WITHIN) for node in due]
            for node, question in zip(due, grid.push_messages(questions), strict=True):
                self._asked[node] = (question, now)

    def _read(self, grid: Grid, now: float) -> None:
        if not self._asked:
            return
        owners = {question: node for node, (question, _) in self._asked.items()}
        for reply in grid.pull_messages(list(owners)):
            node = owners[reply.metadata.reply_to_message_id]
            del self._asked[node]
            if is_gone(reply):
                continue  # it is asked again when it is back
            self._answered[node] = now
            self.heard(node)
            try:
                status = self._believed(node, unpack_status(reply))
                if (before := self.statuses.get(node)) is not None and before.number != status.number:
                    del self.statuses[node]  # the last one to claim the new number
                self.statuses[node] = status
                self._benched.discard(node)
                self.strangers.pop(node, None)
            except UpdateRejected as error:
                self.statuses.pop(node, None)
                if self.strangers.get(node) != (reason := str(error)[:300]):
                    log.warning("node %d is left out: %s", node, printable(reason))
                self.strangers[node] = reason
        self._forget_some()
        overdue = [node for node, (_, asked) in self._asked.items() if now - asked > ANSWER_WITHIN]
        for node in overdue:
            del self._asked[node]

    def _forget_some(self) -> None:
        for known in (self.statuses, self.strangers):
            away = [node for node in known if node not in self._online]
            if len(away) <= MOST_AWAY:
                continue
            away.sort(key=lambda node: self._answered.get(node, -math.inf))
            for node in away[: len(away) - MOST_AWAY]:
                del known[node]
                self._benched.discard(node)
                self._answered.pop(node, None)
                self._owing.pop(node, None)


def call_roll(grid: Grid, roster: Roster, expected: int, patience: float = 600.0) -> None:
    """Wait until `expected` phones have answered who they are; for a fleet that is known to come.

    Raises:
        NoPhonesError: fewer within `patience` seconds, or none that says who it is.
    """
    until = time.monotonic() + patience
    roster.refresh(grid)
    while (present := len(roster.statuses) + len(roster.strangers)) < expected:
        if time.monotonic() > until:
            raise NoPhonesError(f"{present} of {expected} phones came within {patience:.0f} seconds")
        time.sleep(0.05)
        roster.refresh(grid)
    if not roster.eligible():
        reasons = "; ".join(dict.fromkeys(roster.strangers.values()))[:300]
        raise NoPhonesError(f"none of {present} phones can take part ({reasons or 'see the requirements'})")

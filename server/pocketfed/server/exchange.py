"""One attempt at a round: instructions out, answers in, each guarded and folded as it comes."""

import functools
import re
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

from flwr.app import Message, MessageType, RecordDict

from pocketfed.core.formats import Format, encode
from pocketfed.server.aggregators import Broadcast
from pocketfed.server.fold import Fold
from pocketfed.server.history import History
from pocketfed.server.messages import is_gone, pack_instruction
from pocketfed.server.outcome import NOES, Kind
from pocketfed.server.roster import Roster
from pocketfed.server.session import Session
from pocketfed.server.terms import Rounds, Terms


class Clock:
    """Where the time of a round goes, in seconds."""

    def __init__(self) -> None:
        self.phases: dict[str, float] = {}

    @property
    def seconds(self) -> float:
        """Of all phases but the wait for phones."""
        return sum(self.phases.values()) - self.phases.get("waiting", 0.0)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """What happens inside is counted as this phase."""
        began = time.monotonic()
        try:
            yield
        finally:
            self.phases[name] = self.phases.get(name, 0.0) + time.monotonic() - began


def exchange(
    session: Session,
    begun: Broadcast,
    history: History,
    cohort: Mapping[int, int],
    wanted: int,
    clock: Clock,
) -> Fold:
    """Ask a cohort and fold what comes, until as many updates as wanted count or the time is over.

    Phones that did not answer by then are benched, and so are those that have owed answers to one round after the other
    for as long; phones whose answer was a no are left in peace for a while.

    Args:
        session: what the round shares with all others; its watcher is told of each answer.
        begun: what the round begins with.
        history: what it and those before it began with.
        cohort: who is asked: {node id: phone number}, in the order of the numbers.
        wanted: updates that are enough.
        clock: is told where time goes.
    """
    rounds, roster = session.rounds, session.roster
    terms = rounds.terms
    edges = sum(roster.is_edge(node) for node in cohort)
    fold = Fold(
        rounds.aggregator,
        rounds.guard,
        begun,
        history,
        rounds.staleness,
        rounds.travel,
        terms.count_refused,
        edges,
    )
    answered: set[int] = set()
    with clock.phase("sending"):
        messages = _instructions(rounds, roster, begun, cohort)
        replies = iter(session.grid.send_and_receive(messages, timeout=terms.deadline))
    ordered = in_order(replies, list(cohort)) if terms.in_order else replies
    while fold.fresh < wanted:
        with clock.phase("collecting"):
            reply = next(ordered, None)
        if reply is None:
            break
        with clock.phase("folding"):
            if reply.metadata.group_id == str(begun.round):
                answered.add(reply.metadata.src_node_id)
            if not is_gone(reply):
                roster.heard(reply.metadata.src_node_id)
            _take(fold, reply, roster, cohort)
        session.watcher.answered(begun.round, len(answered & cohort.keys()), len(cohort))
    else:  # enough: whoever has not answered yet is not to blame, unless that goes on
        roster.owe(cohort.keys() - answered, terms.deadline)
        answered |= cohort.keys()
    if isinstance(replies, Iterator) and hasattr(replies, "close"):
        replies.close()  # the grid takes back what has not been answered
    for node, phone in cohort.items():
        if node not in answered:
            fold.silent(phone, node)
    roster.bench(fold.nodes({Kind.SILENT}) & cohort.keys())
    roster.rest(fold.nodes(resting(terms)) & cohort.keys())
    return fold


def resting(terms: Terms) -> Collection[Kind]:
    """After which failures a phone rests. Where refusals count, as with privacy, no phone's numbers decide who is asked next."""
    return {Kind.DECLINED} if terms.count_refused else NOES


def _instructions(
    rounds: Rounds, roster: Roster, begun: Broadcast, cohort: Iterable[int]
) -> Iterator[Message]:
    """One message a phone, made when it is sent, all sharing one record; another one for edge servers.

    An edge server gets weights that nobody rounded: its phones' changes are added to these, as they are here.
    """
    terms, layout = rounds.terms, begun.layout

    @functools.cache
    def content(down: Format) -> RecordDict:
        weights = encode(begun.weights, layout, down)
        return pack_instruction(
            rounds.plan(begun.round), weights, layout.digest, replace(rounds.travel, down=down)
        )

    # A message expires with its round, or with the next one if late answers count. A fold never counts late: its sums
    # are of weights that the next round does not begin with.
    late = terms.deadline * (2 if terms.late == "count" else 1)
    for node in cohort:
        ttl, down = (terms.deadline, Format.FLOAT32) if roster.is_edge(node) else (late, rounds.travel.down)
        yield Message(content(down), node, MessageType.TRAIN, ttl=ttl, group_id=str(begun.round))


def _take(fold: Fold, reply: Message, roster: Roster, cohort: Mapping[int, int]) -> None:
    node = reply.metadata.src_node_id
    phone = cohort.get(node)
    if phone is None and (status := roster.statuses.get(node)) is not None:
        phone = status.number
    if phone is not None:  # else it is nobody that was ever asked
        asked = reply.metadata.group_id
        sent = int(asked) if re.fullmatch(r"[0-9]{1,18}", asked) else 0
        fold.take(phone, reply, sent, roster.is_edge(node), node)


def in_order(replies: Iterable[Message], nodes: list[int]) -> Iterator[Message]:
    """Replies in the order of `nodes`, as soon as that order allows; a node that did not reply is left out.

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
        if node in waiting:
            yield waiting.pop(node)

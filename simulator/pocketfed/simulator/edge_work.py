"""What a parent's tasks mean on an edge server: a round with its own phones, answered with their fold."""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import replace

from flwr.serverapp import Grid

from pocketfed.core.errors import MalformedObject, NoPhonesError, ProgramError
from pocketfed.core.modality import Modality
from pocketfed.core.plan import Instruction, PhoneStatus
from pocketfed.core.wire import (
    FOLD,
    INSTRUCTION,
    STATUS,
    part_items,
    read_instruction,
    status_items,
)
from pocketfed.mobile_client.flower.objects import Records
from pocketfed.mobile_client.flower.task import Task
from pocketfed.mobile_client.flower.work import QUERY, TRAIN
from pocketfed.server.admission import WAIT_FOR_A_PLACE
from pocketfed.server.aggregators import Broadcast, fold_bytes
from pocketfed.server.exchange import Clock, exchange
from pocketfed.server.flower_private import DatabaseError, GivenUp
from pocketfed.server.fold import Fold
from pocketfed.server.history import History
from pocketfed.server.outcome import RoundWatcher, reasons_of
from pocketfed.server.roster import Roster, version_of
from pocketfed.server.session import Session
from pocketfed.server.share import share_of
from pocketfed.server.terms import Rounds, sample_cohort

UPLOAD_RATE = 1_000_000
"""Bytes a second at which a fold is taken to travel up, which is slow: one that comes late does not count."""

log = logging.getLogger(__name__)


class Stopped(SystemExit):
    """This server is to stop. What it is at work on is in its journal, and its next start goes on with it."""


class EdgeWork:
    """Answers a parent's tasks, one at a time."""

    def __init__(
        self,
        number: int,
        rounds: Rounds,
        roster: Roster,
        grid: Grid,
        watcher: RoundWatcher,
        stopping: Callable[[], bool],
    ) -> None:
        """Nothing is asked yet.

        Args:
            number: of this edge among its parent's phones.
            rounds: what this server decides: the rule, the guard, and its terms, of which a round's deadline is made
                shorter so that the fold comes before its parent's own.
            roster: its phones.
            grid: carries messages to them.
            watcher: is told of everything.
            stopping: asked all the time.
        """
        self.fault: DatabaseError | GivenUp | None = (
            None  # of the round that failed with it; there is no going on
        )
        self._number, self._session = number, Session(grid, rounds, roster, watcher, stopping)
        self._last, self._attempt = 0, 0

    def __call__(self, task: Task) -> Records:
        """See `Handle`.

        Raises:
            NoPhonesError: too few phones came or answered in time.
            ProgramError: the parent has another network.
            MalformedObject: the task is none that an edge knows.
            Stopped: the server is to stop.
        """
        kind = task.kind.partition(".")[0]
        if kind == QUERY:
            return {STATUS: status_items(self.status())}
        if kind != TRAIN:
            raise MalformedObject(f"an edge server cannot {task.kind[:40]!r}, only {TRAIN!r} and {QUERY!r}")
        try:
            instruction = read_instruction(task.records[INSTRUCTION])
        except (KeyError, TypeError, ValueError) as error:
            raise MalformedObject(
                f"the instruction cannot be read ({type(error).__name__}: {error})"
            ) from error
        try:
            return {FOLD: part_items(self._round(instruction, task.until).part())}
        except (DatabaseError, GivenUp) as error:
            self.fault = error
            raise

    def status(self) -> PhoneStatus:
        """Its phones as one: the captures of all, and of anything else what the least of them has."""
        roster = self._session.roster
        statuses = [roster.statuses[node] for node in roster.eligible().values()]
        held = {m: sum(status.captures.get(m, 0) for status in statuses) for m in Modality}
        return PhoneStatus(
            self._number,
            {modality: min(count, 2**63 - 1) for modality, count in held.items() if count},
            min((status.free_memory for status in statuses), default=0),
            bool(statuses) and all(status.charging for status in statuses),
            min((status.app_version for status in statuses), key=version_of, default=""),
            self._session.rounds.layout.digest,
            edge=True,
        )

    def _round(self, instruction: Instruction, until: float) -> Fold:
        """One attempt; phones may be waited for in the first half of the time, and the end of it is for the upload."""
        plan, ours, watcher = instruction.plan, self._session.rounds, self._session.watcher
        travel = replace(ours.travel, roles=instruction.roles, up=instruction.wanted)
        layout = ours.layout.part(travel.roles)
        if instruction.packed is not None:
            raise ProgramError(
                f"the parent sends weights as {instruction.packed.format}, as to a phone, to which changes of this edge "
                "server's phones cannot be added; let it be a pocketfed serve that knows this edge as one"
            )
        if instruction.layout != layout.digest:
            raise ProgramError(
                f"this edge server's bundle (layout {layout.digest[:12]}) is not its parent's (layout "
                f"{instruction.layout[:12]!r}); give it the parent's bundle"
            )
        self._attempt = self._attempt + 1 if plan.round == self._last else 0
        self._last, attempt = plan.round, self._attempt  # a round that is asked for again draws other phones
        clock = Clock()
        with clock.phase("waiting"):
            eligible = self._phones(until)
        left = _left(until)
        left -= upload_seconds(fold_bytes(ours.aggregator, layout), left)
        terms = replace(ours.terms, deadline=min(ours.terms.deadline, left), late="refuse")
        rounds = replace(ours, plan=lambda number: plan, seed=plan.seed, terms=terms, travel=travel)
        session = replace(self._session, rounds=rounds)
        wanted, cohort = sample_cohort(list(eligible), terms, plan.seed, plan.round, attempt)
        watcher.begun(plan.round, attempt, cohort, len(eligible))
        begun = Broadcast(instruction.weights, layout, plan.round)
        nodes = {eligible[phone]: phone for phone in cohort}
        history = History(1).begin(begun)
        fold = exchange(session, begun, history, nodes, wanted, clock)
        if fold.fresh < wanted and self._session.stopping():
            raise Stopped
        needed = max(1, share_of(wanted, terms.quorum))
        if fold.fresh < needed:
            watcher.abandoned(plan.round, attempt, fold.failures)
            reasons = reasons_of(fold.failures, longest=200)
            raise NoPhonesError(
                f"{fold.fresh} of {needed} phones behind this edge server answered ({reasons})"
            )
        watcher.finished(fold.outcome(len(cohort), clock.seconds, clock.phases, attempt, closes=False))
        return fold

    def _phones(self, until: float) -> Mapping[int, int]:
        ours = self._session.rounds
        terms = replace(ours.terms, patience=min(ours.terms.patience, _left(until) / 2))
        eligible = replace(self._session, rounds=replace(ours, terms=terms)).wait_for_phones()
        if eligible is None:
            raise Stopped
        return eligible


def upload_seconds(size: int, left: float) -> float:
    """Seconds to keep for sending a fold up: half of what is left at most, or phones had none.

    Args:
        size: bytes of the fold.
        left: seconds until it must have arrived.
    """
    return min(left / 2, WAIT_FOR_A_PLACE + size / UPLOAD_RATE)


def _left(until: float) -> float:
    """Seconds; some, even where there are none, since a message must have a life."""
    return max(0.1, until - time.time())

"""Rounds that do not wait for their phones: a new model after every K updates (FedBuff, Nguyen et al., 2022).

    a phone answers, fails, or is silent until its deadline ──► another one is asked, with the newest weights
                       │
                       ▼
    guarded, brought up to date, folded ──► K updates: a round is finished ──► the next one begins at once

A round is a version of the weights here, and everything else is as in `run_rounds`: rules, guard, watchers, outcomes,
checkpoints. No phone is heard twice in a round. A round is also over when everybody has been heard who could be, if
there are updates enough for the quorum; else it is begun anew.
"""

import functools
from collections.abc import Callable, Iterable
from dataclasses import replace

from flwr.app import RecordDict
from flwr.serverapp import Grid

from pocketfed.core.errors import NoPhonesError, UnusableModelError
from pocketfed.core.formats import encode
from pocketfed.server.aggregators import Broadcast, GlobalModel
from pocketfed.server.attempts import Attempts
from pocketfed.server.crew import Answer, Crew
from pocketfed.server.exchange import Clock, resting
from pocketfed.server.fold import Fold
from pocketfed.server.history import History
from pocketfed.server.messages import pack_instruction
from pocketfed.server.outcome import Failure, Kind, Outcome, RoundWatcher, reasons_of
from pocketfed.server.roster import Roster
from pocketfed.server.rounds import one_by_one
from pocketfed.server.session import Session
from pocketfed.server.share import share_of
from pocketfed.server.terms import Rounds


def run_buffered(
    grid: Grid,
    rounds: Rounds,
    roster: Roster,
    model: GlobalModel,
    numbers: Iterable[int],
    watcher: RoundWatcher,
    stopping: Callable[[], bool] = lambda: False,
) -> GlobalModel:
    """Run rounds one after another, while phones work across their borders.

    Args:
        grid: carries messages, by `push_messages` and `pull_messages`.
        rounds: what the server decides; `buffered` is given.
        roster: who is there.
        model: to begin with.
        numbers: of the rounds, rising by one.
        watcher: is told of everything; persists finished rounds.
        stopping: asked all the time.

    Returns:
        The model after the last finished round.

    Raises:
        NoPhonesError: too few phones came, or too few of them answered, again and again.
        UnusableModelError: again and again the rule made a model of their updates that cannot be used.
    """
    assert rounds.buffered is not None
    enough = share_of(rounds.buffered.updates, rounds.terms.quorum)
    terms = replace(rounds.terms, minimum=max(rounds.terms.minimum, enough))
    session = Session(grid, replace(rounds, terms=terms), roster, watcher, stopping)
    crew = Crew(grid, roster, rounds.buffered.concurrency, terms.deadline, rounds.seed)
    return one_by_one(session, model, numbers, functools.partial(_until_it_counts, session, crew, enough))


def _until_it_counts(
    session: Session, crew: Crew, enough: int, begun: Broadcast, history: History
) -> Outcome | None:
    """One round, begun anew as long as too few phones answer; None if the server is to stop."""
    rounds, watcher = session.rounds, session.watcher
    failures: tuple[Failure, ...] = ()
    problem: str | None = None
    attempts = Attempts(rounds.terms)
    while attempts.are_left:
        attempt = attempts.number
        clock = Clock()
        if not crew.at_work:
            with clock.phase("waiting"):
                eligible = session.wait_for_phones()
            if eligible is None:
                return None
            crew.look(eligible)
        version = _Version(session, crew, begun, history, clock, attempt)
        if not version.collect():
            return None
        failures, problem = version.fold.failures, None
        if version.counted >= enough:
            outcome = version.fold.outcome(version.asked, clock.seconds, clock.phases, attempt)
            problem = attempts.objection(outcome, rounds, begun, watcher)
            if problem is None:
                return outcome
        else:
            attempts.failed(enough - version.counted, failures)
        watcher.abandoned(begun.round, attempt, failures)
    if problem is not None:
        raise UnusableModelError(problem)
    raise NoPhonesError(
        f"round {begun.round} was begun {attempts.number} times and never had {enough} updates ({reasons_of(failures)}); "
        "go on when more phones answer, or lower the quorum or the buffer"
    )


class _Version:
    """One attempt at a round: its fold, and who has been heard in it."""

    def __init__(
        self,
        session: Session,
        crew: Crew,
        begun: Broadcast,
        history: History,
        clock: Clock,
        attempt: int,
    ) -> None:
        rounds = session.rounds
        assert rounds.buffered is not None
        self._wanted, self._attempt = rounds.buffered.updates, attempt
        self._crew, self._begun, self._clock = crew, begun, clock
        self._watcher, self._stopping = session.watcher, session.stopping
        self.fold = Fold(rounds.aggregator, rounds.guard, begun, history, rounds.staleness, rounds.travel)
        self.asked = 0
        self._heard: set[int] = set()
        self._unusable, self._count_unusable = 0, rounds.terms.count_refused
        self._resting = resting(rounds.terms)
        self._plan, self._travel = rounds.plan, rounds.travel

    @property
    def counted(self) -> int:
        """Answers towards the updates that are wanted; see `Terms.count_refused` for those that are none."""
        return self.fold.updates + self._unusable

    def collect(self) -> bool:
        """Fold answers until there are as many updates as wanted, or nobody is left; whether to go on at all."""
        told = False
        while self.counted < self._wanted:
            if self._stopping():
                return False
            with self._clock.phase("sending"):
                self.asked += self._crew.fill(self._content, self._begun.round, self._heard, self.asked)
            at_work = self._crew.at_work
            if not at_work:
                return True
            if not told:
                told = True
                self._watcher.begun(self._begun.round, self._attempt, at_work, self._crew.present)
                self._watcher.answered(self._begun.round, 0, self._wanted)
            with self._clock.phase("collecting"):
                answer = self._crew.answer()
            if answer is not None:
                with self._clock.phase("folding"):
                    self._take(answer)
                self._watcher.answered(self._begun.round, self.counted, self._wanted)
        return True

    def _take(self, answer: Answer) -> None:
        errand, reply = answer
        self._heard.add(errand.phone)
        if reply is None:
            failure: Failure | None = self.fold.silent(errand.phone, errand.node)
        else:
            failure = self.fold.take(errand.phone, reply, errand.round, node=errand.node)
        if failure is not None and failure.kind is Kind.SILENT:
            self._crew.bench(errand.node)
        if failure is not None and failure.kind in self._resting:
            self._crew.rest(errand.node)
        if self._count_unusable and failure is not None and failure.kind in (Kind.REFUSED, Kind.FAILED):
            self._unusable += 1  # late or not: what captures can bring about must not let another phone in

    @functools.cached_property
    def _instruction(self) -> RecordDict:
        """One for all who are asked in this round."""
        layout = self._begun.layout
        weights = encode(self._begun.weights, layout, self._travel.down)
        return pack_instruction(self._plan(self._begun.round), weights, layout.digest, self._travel)

    def _content(self) -> RecordDict:
        return self._instruction

"""Rounds as the server runs them: choose phones, send plan and weights, guard and fold what comes back.

    waiting ──► begun ──► answers, each guarded and folded ──► finished ──► the next round
       ▲                        │ fewer than the quorum by the deadline
       └──────── abandoned ◄────┘ or a model that cannot be used

The loop is ours and not `flwr.serverapp.strategy.Strategy.start`: that one waits for ever for phones that do not come,
knows no quorum and cannot end a round before its deadline. Messages and the grid are Flower's.
"""

import functools
from collections.abc import Callable, Iterable
from dataclasses import replace

from flwr.serverapp import Grid

from pocketfed.core.errors import NoPhonesError, UnusableModelError
from pocketfed.server.aggregators import Broadcast, GlobalModel
from pocketfed.server.attempts import Attempts
from pocketfed.server.exchange import Clock, exchange
from pocketfed.server.history import History
from pocketfed.server.outcome import Failure, Outcome, RoundWatcher, reasons_of
from pocketfed.server.roster import Roster
from pocketfed.server.session import Session
from pocketfed.server.share import share_of
from pocketfed.server.terms import Rounds, sample_cohort


def run_rounds(
    grid: Grid,
    rounds: Rounds,
    roster: Roster,
    model: GlobalModel,
    numbers: Iterable[int],
    watcher: RoundWatcher,
    stopping: Callable[[], bool] = lambda: False,
) -> GlobalModel:
    """Run rounds one after another.

    Args:
        grid: carries messages.
        rounds: what the server decides.
        roster: who is there.
        model: to begin with.
        numbers: of the rounds, rising.
        watcher: is told of everything; persists finished rounds.
        stopping: asked between rounds and while waiting.

    Returns:
        The model after the last finished round.

    Raises:
        NoPhonesError: too few phones came, or too few of them answered, again and again.
        UnusableModelError: again and again the rule made a model of their updates that cannot be used.
    """

    session = Session(grid, rounds, roster, watcher, stopping)
    return one_by_one(session, model, numbers, functools.partial(_until_it_counts, session))


def one_by_one(
    session: Session,
    model: GlobalModel,
    numbers: Iterable[int],
    play: Callable[[Broadcast, History], Outcome | None],
) -> GlobalModel:
    """Begin each round with the model of the one before, and tell the watcher what it came to; `play` gives None to stop."""
    rounds = session.rounds
    history = History(rounds.staleness.longest + 1)
    for number in numbers:
        begun = rounds.begin(model, number)
        history = history.begin(begun)
        outcome = play(begun, history)
        if outcome is None:
            break
        model = rounds.complete(outcome.model, model)
        session.watcher.finished(replace(outcome, model=model))
    return model


def _until_it_counts(session: Session, begun: Broadcast, history: History) -> Outcome | None:
    """One round, begun anew with other phones as long as too few answer, or to no use; None if the server is to stop."""
    rounds, watcher = session.rounds, session.watcher
    failures: tuple[Failure, ...] = ()
    problem: str | None = None
    attempts = Attempts(rounds.terms)
    while attempts.are_left:
        attempt = attempts.number
        clock = Clock()
        with clock.phase("waiting"):
            eligible = session.wait_for_phones()
        if eligible is None:
            return None
        wanted, cohort = sample_cohort(list(eligible), rounds.terms, rounds.seed, begun.round, attempt)
        watcher.begun(begun.round, attempt, cohort, len(eligible))
        nodes = {eligible[phone]: phone for phone in cohort}
        fold = exchange(session, begun, history, nodes, wanted, clock)
        if fold.fresh < wanted and session.stopping():
            return None  # its phones will be asked again
        needed = share_of(wanted, rounds.terms.quorum)
        failures, problem = fold.failures, None
        if fold.fresh >= needed:
            outcome = fold.outcome(len(cohort), clock.seconds, clock.phases, attempt)
            problem = attempts.objection(outcome, rounds, begun, watcher)
            if problem is None:
                return outcome
        else:
            attempts.failed(needed - fold.fresh, failures)
        watcher.abandoned(begun.round, attempt, failures)
    if problem is not None:
        raise UnusableModelError(problem)
    raise NoPhonesError(
        f"round {begun.round} was begun {attempts.number} times and never reached its quorum of "
        f"{rounds.terms.quorum:.0%} ({reasons_of(failures)}); go on when more phones answer, or lower the quorum"
    )

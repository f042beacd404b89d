"""Rounds as the server runs them: choose phones, send plan and weights, guard and fold what comes back.

    waiting ──► begun ──► answers, each guarded and folded ──► finished ──► the next round
       ▲                        │ fewer than the quorum by the deadline
       └──────── abandoned ◄────┘ or a model that cannot be used

The loop is ours and not `flwr.serverapp.strategy.Strategy.start`: that one waits for ever for phones that do not come,
knows no quorum and cannot end a round before its deadline. Messages and the grid are Flower's.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from flwr.serverapp import Grid

from pocketfed.core.errors import NoPhonesError, UnusableModelError
from pocketfed.server.aggregators import Broadcast, GlobalModel
from pocketfed.server.attempts import Attempts
from pocketfed.server.exchange import Clock, exchange
from pocketfed.server.history import History
from pocketfed.server.outcome import Failure, Outcome, RoundWatcher, reasons_of
from pocketfed.server.roster import Roster
from pocketfed.server.share import share_of
from pocketfed.server.terms import Rounds, Terms, sample_cohort

LOOK = 0.5
"""Seconds between two looks for phones while there are too few."""


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

    def play(begun: Broadcast, history: History) -> Outcome | None:
        return _until_it_counts(grid, rounds, roster, begun, history, watcher, stopping)

    return one_by_one(rounds, model, numbers, watcher, play)


def one_by_one(
    rounds: Rounds,
    model: GlobalModel,
    numbers: Iterable[int],
    watcher: RoundWatcher,
    play: Callable[[Broadcast, History], Outcome | None],
) -> GlobalModel:
    """Begin each round with the model of the one before, and tell the watcher what it came to; `play` gives None to stop."""
    history = History(rounds.staleness.longest + 1)
    for number in numbers:
        begun = rounds.begin(model, number)
        history = history.begin(begun)
        outcome = play(begun, history)
        if outcome is None:
            break
        model = rounds.complete(outcome.model, model)
        watcher.finished(replace(outcome, model=model))
    return model


def _until_it_counts(
    grid: Grid,
    rounds: Rounds,
    roster: Roster,
    begun: Broadcast,
    history: History,
    watcher: RoundWatcher,
    stopping: Callable[[], bool],
) -> Outcome | None:
    """One round, begun anew with other phones as long as too few answer, or to no use; None if the server is to stop."""
    failures: tuple[Failure, ...] = ()
    problem: str | None = None
    attempts = Attempts(rounds.terms)
    while attempts.are_left:
        attempt = attempts.number
        clock = Clock()
        with clock.phase("waiting"):
            eligible = wait_for_phones(grid, roster, rounds.terms, watcher, stopping)
        if eligible is None:
            return None
        wanted, cohort = sample_cohort(list(eligible), rounds.terms, rounds.seed, begun.round, attempt)
        watcher.begun(begun.round, attempt, cohort, len(eligible))
        nodes = {eligible[phone]: phone for phone in cohort}
        fold = exchange(grid, rounds, roster, begun, history, nodes, wanted, clock, watcher)
        if fold.fresh < wanted and stopping():
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


def wait_for_phones(
    grid: Grid, roster: Roster, terms: Terms, watcher: RoundWatcher, stopping: Callable[[], bool]
) -> Mapping[int, int] | None:
    """The phones that may be chosen, as soon as there are enough; None if the server is to stop.

    Raises:
        NoPhonesError: there were too few for too long.
    """
    until = time.monotonic() + terms.patience
    while not stopping():
        roster.refresh(grid)
        eligible = roster.eligible()
        if len(eligible) >= terms.minimum:
            return eligible
        if time.monotonic() > until:
            raise NoPhonesError(
                f"{len(eligible)} of {terms.minimum} phones came within {terms.patience:.0f} seconds; "
                "go on when there are more, or lower the minimum"
            )
        watcher.waiting(len(eligible), terms.minimum)
        time.sleep(LOOK)
    return None

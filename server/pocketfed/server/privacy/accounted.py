"""A finished round is charged to the budget before anybody hears of it."""

from collections.abc import Sequence
from dataclasses import replace

from pocketfed.server.outcome import Failure, Outcome, RoundWatcher
from pocketfed.server.privacy.budget import Budget
from pocketfed.server.privacy.mechanism import Mechanism
from pocketfed.server.privacy.private_mean import clip_of
from pocketfed.server.privacy.spent import Spent


class Accounted(RoundWatcher):
    """Passes everything on; outcomes say what has been spent by then."""

    def __init__(self, watcher: RoundWatcher, budget: Budget, mechanism: Mechanism) -> None:
        self._watcher, self._budget, self._mechanism = watcher, budget, mechanism

    def waiting(self, present: int, needed: int) -> None:
        """See `RoundWatcher`."""
        self._watcher.waiting(present, needed)

    def begun(self, round_number: int, attempt: int, cohort: Sequence[int], present: int) -> None:
        """See `RoundWatcher`."""
        self._watcher.begun(round_number, attempt, cohort, present)

    def answered(self, round_number: int, done: int, cohort: int) -> None:
        """See `RoundWatcher`."""
        self._watcher.answered(round_number, done, cohort)

    def abandoned(self, round_number: int, attempt: int, failures: Sequence[Failure]) -> None:
        """See `RoundWatcher`. Nothing of an abandoned attempt is released, so it costs nothing."""
        self._watcher.abandoned(round_number, attempt, failures)

    def trouble(self, text: str) -> None:
        """See `RoundWatcher`."""
        self._watcher.trouble(text)

    def finished(self, outcome: Outcome) -> None:
        """See `RoundWatcher`.

        Raises:
            RunFolderError: the release cannot be written down, and so does not happen.
        """
        budget = self._budget
        epsilon = budget.charge(outcome.round)
        clip = clip_of(outcome.model.memory, self._mechanism)
        spent = Spent(epsilon, budget.delta, budget.epsilon, clip)
        self._watcher.finished(replace(outcome, privacy=spent))

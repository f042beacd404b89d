"""How often a round is begun anew before a server gives up."""

import time
from collections.abc import Callable, Iterable

from pocketfed.server.aggregators import Broadcast
from pocketfed.server.outcome import NOES, Failure, Outcome, RoundWatcher
from pocketfed.server.terms import Rounds, Terms


class Attempts:
    """Counts the attempts at a round that failed.

    One that missed its quorum only because of answers that are a no (`NOES`) costs none of them: phones that are not at a
    charger in the morning are so in the evening, and a disk that is full may have room by then. Such phones rest, so that
    these attempts are ever further apart. That goes on for `Terms.patience` at most.
    """

    def __init__(self, terms: Terms, monotonic: Callable[[], float] = time.monotonic) -> None:
        """None has been made; the patience begins now."""
        self.number = 0  # of the one that is running, from 0
        self._left, self._until, self._monotonic = terms.attempts, monotonic() + terms.patience, monotonic

    @property
    def are_left(self) -> bool:
        """Whether the round may be begun (anew)."""
        return self._left > 0

    def objection(
        self, outcome: Outcome, rounds: Rounds, begun: Broadcast, watcher: RoundWatcher
    ) -> str | None:
        """Why the one that is running came to no model that can be used, although it had answers enough; None if it did.

        The watcher is told, and an attempt is spent.
        """
        problem = rounds.objection(outcome.model, begun)
        if problem is not None:
            self.number += 1
            self._left -= 1
            watcher.trouble(problem)
        return problem

    def failed(self, missing: int, failures: Iterable[Failure]) -> None:
        """The one that is running has failed for lack of answers.

        Args:
            missing: updates short of the quorum.
            failures: of its phones; what went on behind edge servers does not count here.
        """
        self.number += 1
        noes = sum(failure.kind in NOES and not failure.behind for failure in failures)
        if noes < missing or self._monotonic() > self._until:
            self._left -= 1

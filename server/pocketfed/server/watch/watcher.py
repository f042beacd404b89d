"""Whoever watches a server, and how several do at once."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from pocketfed.server.outcome import Failure, Outcome, RoundWatcher


class ServerWatcher(RoundWatcher, Protocol):
    """A `RoundWatcher` that also hears what becomes of a finished round, and of the fleet."""

    def saved(self, round_number: int, seconds: float) -> None:
        """A finished round is safe on disk; writing it took `seconds`."""
        return

    def trouble(self, text: str) -> None:
        """See `RoundWatcher`; it counts as mended at the next `saved`."""
        return

    def upstream(self, problem: str | None) -> None:
        """This edge server waits for its parent, which cannot be reached if there is a problem; called often."""
        return

    def fleet(
        self, *, seen: int, online: int, eligible: int, benched: int, left_out: Mapping[str, int]
    ) -> None:
        """How many phones have ever been seen, are there, may be asked, and did not answer; called often.

        `left_out` says why some that are there may not be asked, and how many for each reason.
        """
        return


class Everyone:
    """Several watchers as one, told in order.

    What a watcher raises is not caught: one that persists rounds must be able to stop the server.
    """

    def __init__(self, *watchers: ServerWatcher) -> None:
        self._watchers = watchers

    def waiting(self, present: int, needed: int) -> None:
        """See `RoundWatcher`."""
        for watcher in self._watchers:
            watcher.waiting(present, needed)

    def begun(self, round_number: int, attempt: int, cohort: Sequence[int], present: int) -> None:
        """See `RoundWatcher`."""
        for watcher in self._watchers:
            watcher.begun(round_number, attempt, cohort, present)

    def answered(self, round_number: int, done: int, cohort: int) -> None:
        """See `RoundWatcher`."""
        for watcher in self._watchers:
            watcher.answered(round_number, done, cohort)

    def abandoned(self, round_number: int, attempt: int, failures: Sequence[Failure]) -> None:
        """See `RoundWatcher`."""
        for watcher in self._watchers:
            watcher.abandoned(round_number, attempt, failures)

    def finished(self, outcome: Outcome) -> None:
        """See `RoundWatcher`."""
        for watcher in self._watchers:
            watcher.finished(outcome)

    def saved(self, round_number: int, seconds: float) -> None:
        """See `ServerWatcher`."""
        for watcher in self._watchers:
            watcher.saved(round_number, seconds)

    def trouble(self, text: str) -> None:
        """See `ServerWatcher`."""
        for watcher in self._watchers:
            watcher.trouble(text)

    def upstream(self, problem: str | None) -> None:
        """See `ServerWatcher`."""
        for watcher in self._watchers:
            watcher.upstream(problem)

    def fleet(
        self, *, seen: int, online: int, eligible: int, benched: int, left_out: Mapping[str, int]
    ) -> None:
        """See `ServerWatcher`."""
        for watcher in self._watchers:
            watcher.fleet(seen=seen, online=online, eligible=eligible, benched=benched, left_out=left_out)

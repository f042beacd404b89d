"""Rounds as lines of the log."""

import logging
from collections.abc import Mapping, Sequence

from pocketfed.server.outcome import Failure, Outcome
from pocketfed.server.privacy.spent import Spent
from pocketfed.server.watch.records import bundle_counts, printable, reason_counts

LOG = logging.getLogger("pocketfed.rounds")


class RoundLog:
    """A `ServerWatcher` that logs what happens, each thing once."""

    def __init__(self) -> None:
        self._waiting: tuple[int, int] | None = None
        self._upstream: str | None = ""
        self._left_out: Mapping[str, int] = {}

    def waiting(self, present: int, needed: int) -> None:
        """See `RoundWatcher`; called often, logged when the numbers change."""
        if self._waiting != (present, needed):
            self._waiting = (present, needed)
            LOG.info("waiting for phones", extra={"present": present, "needed": needed})

    def begun(self, round_number: int, attempt: int, cohort: Sequence[int], present: int) -> None:
        """See `RoundWatcher`."""
        self._waiting = None
        LOG.info(
            "round begun",
            extra={"round": round_number, "attempt": attempt, "chosen": len(cohort), "present": present},
        )

    def answered(self, round_number: int, done: int, cohort: int) -> None:
        """See `RoundWatcher`; the page shows it, a line for each would be noise."""

    def abandoned(self, round_number: int, attempt: int, failures: Sequence[Failure]) -> None:
        """See `RoundWatcher`."""
        self._failed(round_number, failures)
        LOG.warning(
            "attempt abandoned",
            extra={"round": round_number, "attempt": attempt, "failures": len(failures)},
        )

    def finished(self, outcome: Outcome) -> None:
        """See `RoundWatcher`."""
        self._failed(outcome.round, outcome.failures)
        LOG.info(
            "round finished",
            extra={
                "round": outcome.round,
                "attempt": outcome.attempt,
                "updates": outcome.phones,
                "failures": outcome.failed,
                **{f"loss_{modality}": round(loss, 6) for modality, loss in outcome.loss.items()},
                "bytes_down": outcome.bytes_down,
                "bytes_up": outcome.bytes_up,
                "seconds": round(outcome.seconds, 3),
                **({"bundles": bundle_counts(outcome.bundles)} if outcome.bundles else {}),
                **({} if outcome.privacy is None else _privacy(outcome.privacy)),
                **{f"seconds_{phase}": round(seconds, 3) for phase, seconds in outcome.phases.items()},
            },
        )

    def saved(self, round_number: int, seconds: float) -> None:
        """See `ServerWatcher`."""
        LOG.info("round saved", extra={"round": round_number, "seconds": round(seconds, 3)})

    def trouble(self, text: str) -> None:
        """See `ServerWatcher`."""
        LOG.error("degraded", extra={"reason": printable(text)})

    def upstream(self, problem: str | None) -> None:
        """See `ServerWatcher`; logged when it changes."""
        if problem == self._upstream:
            return
        self._upstream = problem
        if problem is None:
            LOG.info("waiting for a round of the server above")
        else:
            LOG.warning("the server above cannot be reached", extra={"reason": printable(problem)})

    def fleet(
        self, *, seen: int, online: int, eligible: int, benched: int, left_out: Mapping[str, int]
    ) -> None:
        """See `ServerWatcher`; who is left out is logged when that changes, the page and the metrics show the rest."""
        if self._left_out != left_out:
            self._left_out = dict(left_out)
            LOG.info("phones left out", extra={"reasons": reason_counts(left_out) or "none"})

    def _failed(self, round_number: int, failures: Sequence[Failure]) -> None:
        for failure in failures:
            LOG.warning(
                "update did not count",
                extra={
                    "round": round_number,
                    "phone": failure.phone,
                    "kind": str(failure.kind),
                    "reason": printable(failure.reason),
                    **({"behind": failure.behind} if failure.behind else {}),
                },
            )


def _privacy(spent: Spent) -> dict[str, float]:
    return {"epsilon": round(spent.epsilon, 4), "delta": spent.delta, "clip": round(spent.clip, 6)}

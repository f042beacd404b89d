"""Makes finished rounds safe on disk."""

import errno
import time
from collections.abc import Sequence
from contextlib import suppress

from pocketfed.server.checkpoint import Checkpoint, prune, save_checkpoint
from pocketfed.server.outcome import Outcome
from pocketfed.server.roster import Roster
from pocketfed.server.watch.watcher import Everyone, ServerWatcher
from pocketfed.simulator.metrics_file import MetricsFile
from pocketfed.simulator.run_folder import Record, record_of
from pocketfed.simulator.server_run import Run

FULL = (errno.ENOSPC, errno.EDQUOT)


class Keeper(Everyone):
    """Makes finished rounds safe: a checkpoint, then the metrics. A full disk stops neither this round nor later ones.

    It stands before the watcher, to which it passes everything on: whatever goes wrong in a log or on a page, a finished
    round is on disk by then.

    Attributes:
        round: the last finished one.
        model: after it.
        problem: why that round is not on disk, or None.
    """

    def __init__(self, run: Run, roster: Roster, watcher: ServerWatcher) -> None:
        super().__init__(watcher)
        self._run, self._roster = run, roster
        self.round, self.model = run.last.round, run.last.model
        self.problem: str | None = None
        self._metrics = MetricsFile(run.folder, run.last.round)
        if self._metrics.last is None or self._metrics.last < run.last.round:
            self._metrics.add(run.last.record)  # stopped between the checkpoint and the metrics
        with suppress(OSError):  # it will be tried again after the next round
            self._metrics.write()

    def records(self) -> list[Record]:
        """Of all rounds so far, as read from the disk."""
        return self._metrics.read()

    def begun(self, round_number: int, attempt: int, cohort: Sequence[int], present: int) -> None:
        """Tell who is there, too."""
        self._tell()
        super().begun(round_number, attempt, cohort, present)

    def waiting(self, present: int, needed: int) -> None:
        """Tell who is there, too."""
        self._tell()
        super().waiting(present, needed)

    def _tell(self) -> None:
        self.fleet(**self._roster.counts(), left_out=self._roster.left_out())

    def finished(self, outcome: Outcome) -> None:
        """Persist a round, then show it."""
        began = time.monotonic()
        self.round, self.model = outcome.round, outcome.model
        self.problem = self._persist(outcome)
        took = time.monotonic() - began
        super().finished(outcome)
        if self.problem is None:
            self.saved(outcome.round, took)
        else:
            self.trouble(self.problem)

    def _persist(self, outcome: Outcome) -> str | None:
        """On a full disk, make room and try again, then leave it to the next round; what went wrong, or None."""
        record = record_of(outcome)
        self._metrics.add(record)
        try:
            self._save(outcome, record)
        except OSError as error:
            if error.errno not in FULL or not self._save_with_less(outcome, record):
                what = "make room in" if error.errno in FULL else "look after"
                place = self._run.folder.path
                return f"round {outcome.round} is not on disk ({error.strerror}); {what} {place}"
        self._prune(self._run.config.deployment.keep_checkpoints)
        return None

    def _save_with_less(self, outcome: Outcome, record: Record) -> bool:
        """Save once more, after giving up all earlier checkpoints but one; whether it worked."""
        self._prune(1)
        try:
            self._save(outcome, record)
        except OSError:
            return False
        return True

    def _prune(self, keep: int) -> None:
        with suppress(OSError):  # what cannot be removed is in nobody's way
            prune(self._run.folder.checkpoints, keep)

    def _save(self, outcome: Outcome, record: Record) -> None:
        save_checkpoint(
            self._run.folder.checkpoints,
            Checkpoint(
                outcome.round,
                self._run.config.seed,
                outcome.weights,
                self._run.last.layout,
                record,
                dict(self._roster.statuses),
                outcome.model.memory,
            ),
        )
        self._metrics.write()

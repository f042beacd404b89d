"""The scoreboard: rounds write it from their thread, the page reads it from others."""

import dataclasses
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from pocketfed.server.outcome import Failure, Kind, Outcome
from pocketfed.server.watch.phases import named_phases
from pocketfed.server.watch.records import failure_lines, line_of, printable, read_record
from pocketfed.server.watch.snapshot import FailureLine, RoundLine, Snapshot, Stage, Totals

HISTORY = 500
"""Rounds that are kept one by one, for plots and the table."""

LATEST = 50
"""Failures that are kept with their reasons."""


class Scoreboard:
    """What a server has done and is doing, in bounded memory; a `ServerWatcher` that may be read at any time."""

    def __init__(
        self,
        planned: int | None = None,
        deadline: float | None = None,
        certificate_until: datetime | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin with nothing.

        Args:
            planned: how many rounds the run is to have; None means until it is stopped.
            deadline: seconds that a round waits for answers, for the time left.
            certificate_until: when the server's certificate ends, with a time zone; None without TLS.
            clock: seconds, never falling.
        """
        self._lock = threading.Lock()
        self._deadline, self._clock, self._started = deadline, clock, clock()
        self._begun: float | None = None
        self._now = Snapshot(planned=planned, certificate_until=certificate_until)
        self._rounds: deque[RoundLine] = deque(maxlen=HISTORY)
        self._failures: deque[FailureLine] = deque(maxlen=LATEST)
        self._totals = Totals()

    def snapshot(self) -> Snapshot:
        """Everything, at this moment."""
        with self._lock:
            now = self._clock()
            left = None
            if self._now.stage is Stage.COLLECTING and self._deadline is not None and self._begun is not None:
                left = max(0.0, self._begun + self._deadline - now)
            return dataclasses.replace(
                self._now,
                left=left,
                uptime=now - self._started,
                rounds=tuple(self._rounds),
                failures=tuple(reversed(self._failures)),
                totals=self._totals,
            )

    def restore(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Fill the history from the records of earlier rounds, in place of what it held; the last of a round counts."""
        read = {line.round: (line, failures) for line, failures in filter(None, map(read_record, records))}
        found = dict(sorted(read.items(), key=lambda item: item[0]))
        with self._lock:
            self._rounds.clear()
            self._failures.clear()
            self._totals = Totals()
            for line, failures in found.values():
                self._add(line)
                self._count(failures, unexplained=line.failures - sum(f.count for f in failures))
            last = max(found, default=0)
            over = self._now.planned is not None and last >= self._now.planned
            self._set(stage=Stage.FINISHED if over else Stage.STARTING, round=last)

    def waiting(self, present: int, needed: int) -> None:
        """See `RoundWatcher`."""
        with self._lock:
            self._set(stage=Stage.WAITING, present=present, needed=needed)

    def begun(self, round_number: int, attempt: int, cohort: Sequence[int], present: int) -> None:
        """See `RoundWatcher`."""
        with self._lock:
            self._begun = self._clock()
            phones = dataclasses.replace(self._now.phones, chosen=len(cohort))
            self._set(
                stage=Stage.COLLECTING, round=round_number, attempt=attempt, done=0, cohort=len(cohort),
                present=present, phones=phones,
            )  # fmt: skip

    def answered(self, round_number: int, done: int, cohort: int) -> None:
        """See `RoundWatcher`."""
        with self._lock:
            self._set(stage=Stage.COLLECTING, round=round_number, done=done, cohort=cohort)

    def abandoned(self, round_number: int, attempt: int, failures: Sequence[Failure]) -> None:
        """See `RoundWatcher`."""
        with self._lock:
            self._count(failure_lines(round_number, failures))
            self._totals = dataclasses.replace(self._totals, abandoned=self._totals.abandoned + 1)
            self._set(stage=Stage.CHOOSING, round=round_number, attempt=attempt)

    def finished(self, outcome: Outcome) -> None:
        """See `RoundWatcher`."""
        with self._lock:
            self._add(line_of(outcome))
            self._count(failure_lines(outcome.round, outcome.failures))
            self._set(stage=Stage.SAVING, round=outcome.round)

    def saved(self, round_number: int, seconds: float) -> None:
        """See `ServerWatcher`."""
        with self._lock:
            if self._rounds and self._rounds[-1].round == round_number:
                line = self._rounds.pop()
                phases = named_phases({**line.phases, "saving": seconds})
                self._rounds.append(dataclasses.replace(line, phases=phases))
                self._totals = dataclasses.replace(
                    self._totals, phases=_sum(self._totals.phases, {"saving": seconds})
                )
            over = self._now.planned is not None and round_number >= self._now.planned
            self._set(stage=Stage.FINISHED if over else Stage.CHOOSING, trouble=None)

    def trouble(self, text: str) -> None:
        """See `ServerWatcher`."""
        with self._lock:
            self._set(trouble=printable(text) or "something is wrong")

    def upstream(self, problem: str | None) -> None:
        """See `ServerWatcher`."""
        with self._lock:
            self._set(stage=Stage.UPSTREAM, upstream=printable(problem) if problem else None)

    def fleet(
        self, *, seen: int, online: int, eligible: int, benched: int, left_out: Mapping[str, int]
    ) -> None:
        """See `ServerWatcher`."""
        with self._lock:
            counts = {"seen": seen, "online": online, "eligible": eligible, "benched": benched}
            phones = dataclasses.replace(self._now.phones, left_out=dict(left_out), **counts)
            self._set(phones=phones)

    def _set(self, **changes: Any) -> None:
        self._now = dataclasses.replace(self._now, **changes)

    def _add(self, line: RoundLine) -> None:
        self._rounds.append(line)
        totals = self._totals
        self._totals = dataclasses.replace(
            totals,
            rounds=totals.rounds + 1,
            updates=totals.updates + line.phones,
            bytes_down=totals.bytes_down + line.bytes_down,
            bytes_up=totals.bytes_up + line.bytes_up,
            seconds=totals.seconds + line.seconds,
            phases=_sum(totals.phases, line.phases),
        )

    def _count(self, failures: Sequence[FailureLine], unexplained: int = 0) -> None:
        self._failures.extend(failures)
        counts = dict(self._totals.failures)
        for failure in failures:
            counts[failure.kind] = counts.get(failure.kind, 0) + failure.count
        if unexplained > 0:  # of a record that names fewer than it counts
            counts[Kind.FAILED] = counts.get(Kind.FAILED, 0) + unexplained
        self._totals = dataclasses.replace(self._totals, failures=counts)


def _sum(one: Mapping[str, float], other: Mapping[str, float]) -> dict[str, float]:
    return named_phases({name: one.get(name, 0.0) + other.get(name, 0.0) for name in {**one, **other}})

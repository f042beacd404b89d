"""The metrics that Prometheus scrapes. Names end in their unit; labels take few values, whatever phones send."""

import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.exposition import choose_encoder

from pocketfed.core.modality import Modality
from pocketfed.server.outcome import Failure, Kind, Outcome
from pocketfed.server.privacy.spent import Spent
from pocketfed.server.watch.phases import PHASES, named_phases
from pocketfed.server.watch.records import read_record

ROUND_SECONDS = (0.1, 0.3, 1, 3, 10, 30, 60, 180, 600, 1800, 3600, 10800, 43200)
REQUEST_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Metrics:
    """A `ServerWatcher` with a registry of its own, so that two servers in one process do not mix."""

    def __init__(self, certificate_until: datetime | None = None) -> None:
        """Nothing has happened.

        Args:
            certificate_until: when the server's certificate ends, with a time zone; None without TLS.
        """
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self._rounds = Counter("pocketfed_rounds", "Finished rounds.", registry=registry)
        self._abandoned = Counter(
            "pocketfed_rounds_abandoned", "Attempts that were begun anew.", registry=registry
        )
        self._updates = Counter("pocketfed_updates", "Updates that were folded.", registry=registry)
        self._failures = Counter(
            "pocketfed_failures", "Updates that did not count, by why.", ["kind"], registry=registry
        )
        self._bytes = Counter(
            "pocketfed_weights_bytes",
            "Bytes of weights, to and from phones.",
            ["direction"],
            registry=registry,
        )
        self._phones = Gauge("pocketfed_phones", "Phones, by state.", ["state"], registry=registry)
        self._loss = Gauge("pocketfed_loss", "Loss of the last round.", ["modality"], registry=registry)
        self._round = Gauge("pocketfed_round", "The round that is being run, or the last.", registry=registry)
        self._saved = Gauge(
            "pocketfed_saved_round", "The last round that is safe on disk.", registry=registry
        )
        self._degraded = Gauge("pocketfed_degraded", "1 while something is wrong.", registry=registry)
        self._round_seconds = Histogram(
            "pocketfed_round_seconds", "Time of a round.", buckets=ROUND_SECONDS, registry=registry
        )
        self._phase_seconds = Histogram(
            "pocketfed_phase_seconds", "Time of a round by what it was spent on.", ["phase"],
            buckets=ROUND_SECONDS, registry=registry,
        )  # fmt: skip
        self._request_seconds = Histogram(
            "pocketfed_request_seconds", "Time of a request, by call and HTTP status.", ["call", "status"],
            buckets=REQUEST_SECONDS, registry=registry,
        )  # fmt: skip
        self._epsilon = Gauge(
            "pocketfed_privacy_epsilon", "Spent by all rounds; NaN without privacy.", registry=registry
        )
        self._budget = Gauge(
            "pocketfed_privacy_budget", "What epsilon may become; NaN without privacy.", registry=registry
        )
        Gauge(
            "pocketfed_certificate_end_timestamp_seconds", "When the certificate ends, as a Unix time; NaN without TLS.",
            registry=registry,
        ).set(certificate_until.timestamp() if certificate_until else math.nan)  # fmt: skip
        for gauge in (self._epsilon, self._budget):
            gauge.set(math.nan)
        for kind in Kind:  # a rate needs a zero to rise from
            self._failures.labels(kind)
        for direction in ("down", "up"):
            self._bytes.labels(direction)
        for phase in PHASES:
            self._phase_seconds.labels(phase)

    def exposition(self, accept: str = "") -> tuple[bytes, str]:
        """All metrics, and their content type, in the format that an `Accept` header asks for."""
        encoder, content_type = choose_encoder(accept)
        return encoder(self.registry), content_type

    def restore(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Show what earlier rounds left: privacy that is spent stays spent. Counters begin anew with a process."""
        for line, _ in filter(None, map(read_record, records)):
            if line.privacy is not None:
                self._spent(line.privacy)

    def request(self, call: str, status: str, seconds: float) -> None:
        """A request was answered; `call` must be one of few names."""
        self._request_seconds.labels(call, status).observe(seconds)

    def waiting(self, present: int, needed: int) -> None:
        """See `RoundWatcher`."""
        self._phones.labels("eligible").set(present)

    def begun(self, round_number: int, attempt: int, cohort: Sequence[int], present: int) -> None:
        """See `RoundWatcher`."""
        self._round.set(round_number)
        self._phones.labels("chosen").set(len(cohort))
        self._phones.labels("eligible").set(present)

    def answered(self, round_number: int, done: int, cohort: int) -> None:
        """See `RoundWatcher`; updates are counted when the round is finished."""

    def abandoned(self, round_number: int, attempt: int, failures: Sequence[Failure]) -> None:
        """See `RoundWatcher`."""
        self._abandoned.inc()
        self._fail(failures)

    def finished(self, outcome: Outcome) -> None:
        """See `RoundWatcher`."""
        self._rounds.inc()
        self._round.set(outcome.round)
        self._updates.inc(outcome.phones)
        self._fail(outcome.failures)
        self._bytes.labels("down").inc(outcome.bytes_down)
        self._bytes.labels("up").inc(outcome.bytes_up)
        for modality in Modality:  # a modality that nobody sent this time has no loss rather than an old one
            self._loss.labels(modality).set(outcome.loss.get(modality, math.nan))
        if outcome.privacy is not None:
            self._spent(outcome.privacy)
        self._round_seconds.observe(outcome.seconds)
        for phase, seconds in named_phases(outcome.phases).items():
            self._phase_seconds.labels(phase).observe(seconds)

    def saved(self, round_number: int, seconds: float) -> None:
        """See `ServerWatcher`."""
        self._saved.set(round_number)
        self._phase_seconds.labels("saving").observe(seconds)
        self._degraded.set(0)

    def trouble(self, text: str) -> None:
        """See `ServerWatcher`."""
        self._degraded.set(1)

    def upstream(self, problem: str | None) -> None:
        """See `ServerWatcher`; the parent's metrics show whether this server is there."""

    def fleet(
        self, *, seen: int, online: int, eligible: int, benched: int, left_out: Mapping[str, int]
    ) -> None:
        """See `ServerWatcher`; why phones are left out is on the page and in the log."""
        for state, count in (
            ("seen", seen), ("online", online), ("eligible", eligible), ("benched", benched),
        ):  # fmt: skip
            self._phones.labels(state).set(count)

    def _spent(self, spent: Spent) -> None:
        self._epsilon.set(spent.epsilon)
        self._budget.set(spent.budget)

    def _fail(self, failures: Sequence[Failure]) -> None:
        for failure in failures:
            self._failures.labels(failure.kind).inc(failure.count)

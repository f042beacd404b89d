"""Finished rounds as lines of the scoreboard, from an outcome or from the record that a checkpoint keeps of it."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from pocketfed.core.modality import Modality
from pocketfed.core.visible import visible
from pocketfed.server.outcome import Failure, Kind, Outcome
from pocketfed.server.privacy.spent import Spent
from pocketfed.server.watch.phases import named_phases
from pocketfed.server.watch.snapshot import FailureLine, RoundLine

LONGEST = 300
"""Characters of a reason that are kept: phones send text."""


def line_of(outcome: Outcome) -> RoundLine:
    """An outcome without its weights."""
    return RoundLine(
        round=outcome.round,
        loss=dict(outcome.loss),
        phones=outcome.phones,
        failures=outcome.failed,
        bytes_down=outcome.bytes_down,
        bytes_up=outcome.bytes_up,
        seconds=_seconds(outcome.seconds),
        phases=named_phases(outcome.phases),
        attempt=outcome.attempt,
        privacy=outcome.privacy,
        bundles=dict(outcome.bundles),
    )


def failure_lines(round_number: int, failures: Sequence[Failure]) -> list[FailureLine]:
    """Failures of a round, with reasons that are bounded and printable."""
    return [FailureLine(round_number, f.phone, f.kind, printable(f.reason), f.count) for f in failures]


def read_record(record: Mapping[str, Any]) -> tuple[RoundLine, list[FailureLine]] | None:
    """A finished round from its record; None if it is no such record, or of round 0, which nobody trained.

    Missing and odd values count as nothing: an old record must not keep a server from starting.
    """
    number = _count(record.get("round"))
    if number < 1:
        return None
    failures = [_failure(number, entry) for entry in _list(record.get("failed"))]
    phases = {str(name): _seconds(value) for name, value in _mapping(record.get("phases")).items()}
    line = RoundLine(
        round=number,
        loss=_losses(_mapping(record.get("loss"))),
        phones=_count(record.get("phones")),
        failures=max(_count(record.get("failures")), sum(failure.count for failure in failures)),
        bytes_down=_count(record.get("bytes_down")),
        bytes_up=_count(record.get("bytes_up")),
        seconds=_seconds(record.get("seconds")),
        phases=named_phases(phases),
        attempt=_count(record.get("attempt")),
        privacy=_spent(_mapping(record.get("privacy"))),
        bundles={printable(str(name), 64): _count(n) for name, n in _mapping(record.get("bundles")).items()},
    )
    return line, failures


def printable(text: str, longest: int = LONGEST) -> str:
    """One line without control characters, cut to `longest` characters."""
    clean = visible(" ".join(text[: 4 * longest].split()))
    return clean if len(clean) <= longest else clean[: longest - 1] + "…"


def bundle_counts(bundles: Mapping[str, int]) -> str:
    """How many updates were made with which bundle, by the first digits of its id.

    >>> bundle_counts({"f" * 64: 3, "0" * 64: 1})
    'ffffffffffff (3), 000000000000 (1)'
    """
    return ", ".join(f"{name[:12]} ({count})" for name, count in bundles.items())


def reason_counts(reasons: Mapping[str, int]) -> str:
    """Why phones are left out, and how many for each reason.

    >>> reason_counts({"has another bundle": 2, "is not charging": 1})
    'has another bundle (2); is not charging (1)'
    """
    return "; ".join(f"{reason} ({count})" for reason, count in reasons.items())


def _failure(round_number: int, entry: object) -> FailureLine:
    found = _mapping(entry)
    kind = found.get("kind")
    known = Kind(kind) if kind in list(Kind) else Kind.FAILED
    phone = found.get("phone")
    return FailureLine(
        round_number,
        phone if isinstance(phone, int) else -1,
        known,
        printable(str(found.get("reason", ""))),
        _count(found.get("behind")) or 1,
    )


def _mapping(value: object) -> Mapping[Any, Any]:
    return value if isinstance(value, Mapping) else {}


def _list(value: object) -> Sequence[Any]:
    return value if isinstance(value, list | tuple) else ()


def _losses(found: Mapping[Any, Any]) -> dict[Modality, float]:
    values = {modality: found.get(modality) for modality in Modality}
    return {modality: float(value) for modality, value in values.items() if isinstance(value, int | float)}


def _spent(found: Mapping[Any, Any]) -> Spent | None:
    values: list[Any] = [found.get(field.name) for field in dataclasses.fields(Spent)]
    if not all(isinstance(value, int | float) and math.isfinite(value) for value in values):
        return None
    return Spent(*map(float, values))


def _count(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0


def _seconds(value: object) -> float:
    if not isinstance(value, int | float):
        return 0.0
    return float(value) if math.isfinite(value) and value > 0 else 0.0

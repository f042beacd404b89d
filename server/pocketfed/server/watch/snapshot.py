"""What the scoreboard shows at one moment: plain values that do not change while they are looked at."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from pocketfed.core.modality import Modality
from pocketfed.server.outcome import Kind
from pocketfed.server.privacy.spent import Spent


class Stage(StrEnum):
    """What the server is doing."""

    STARTING = "starting"
    WAITING = "waiting"
    COLLECTING = "collecting"
    SAVING = "saving"
    CHOOSING = "choosing"
    UPSTREAM = "upstream"
    """An edge server waits for its parent."""
    FINISHED = "finished"


@dataclass(frozen=True)
class RoundLine:
    """A finished round; `seconds` and `phases` in seconds, bytes of weights, updates by the bundle they were made with."""

    round: int
    loss: Mapping[Modality, float]
    phones: int
    failures: int
    bytes_down: int
    bytes_up: int
    seconds: float
    phases: Mapping[str, float]
    attempt: int = 0
    privacy: Spent | None = None
    bundles: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class FailureLine:
    """An update that did not count, or `count` of them behind one edge server. The reason may be the phone's own words: bounded, printable, not trusted."""

    round: int
    phone: int
    kind: Kind
    reason: str
    count: int = 1


@dataclass(frozen=True)
class Phones:
    """How many phones there are of each sort; None where nobody has said yet. And why some that are there may not be asked."""

    seen: int | None = None
    online: int | None = None
    eligible: int | None = None
    chosen: int | None = None
    benched: int | None = None
    left_out: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Totals:
    """Sums over all rounds, those that the bounded history has forgotten too."""

    rounds: int = 0
    updates: int = 0
    abandoned: int = 0
    bytes_down: int = 0
    bytes_up: int = 0
    seconds: float = 0.0
    failures: Mapping[Kind, int] = field(default_factory=dict)
    phases: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Snapshot:
    """Everything that the page and `/healthz` say.

    Attributes:
        stage: what the server is doing.
        round: the round that is being run, or the last one; 0 before the first.
        attempt: how often this round had to be begun anew.
        planned: how many rounds the run is to have; None means until it is stopped.
        present, needed: phones that may be asked, and how many a round needs; while waiting.
        done, cohort: answers so far, of how many phones that were asked.
        left: seconds until this round stops waiting for answers; None if nobody has said.
        uptime: seconds since the server started.
        trouble: what is wrong; None when all is well.
        certificate_until: when the server's certificate ends, with a time zone; None without TLS.
        upstream: why an edge server's parent cannot be reached; None when it can, or there is none.
        phones: by sort.
        rounds: the last ones, oldest first.
        failures: the last ones, newest first.
        totals: since round 1.
    """

    stage: Stage = Stage.STARTING
    round: int = 0
    attempt: int = 0
    planned: int | None = None
    present: int = 0
    needed: int = 0
    done: int = 0
    cohort: int = 0
    left: float | None = None
    uptime: float = 0.0
    trouble: str | None = None
    certificate_until: datetime | None = None
    upstream: str | None = None
    phones: Phones = Phones()
    rounds: tuple[RoundLine, ...] = ()
    failures: tuple[FailureLine, ...] = ()
    totals: Totals = Totals()

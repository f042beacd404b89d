"""What a round came to, and who is told."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pocketfed.core.modality import Modality
from pocketfed.server.aggregators import GlobalModel
from pocketfed.server.privacy.spent import Spent


class Kind(StrEnum):
    """Why a phone's update did not count."""

    DECLINED = "declined"
    """The phone's own policy said no."""

    FAILED = "failed"
    """The phone reported an error."""

    REFUSED = "refused"
    """The guard refused what the phone sent."""

    SILENT = "silent"
    """No answer by the deadline."""

    LATE = "late"
    """The answer was to a round that was over, for too long if late answers count."""


NOES = frozenset({Kind.DECLINED, Kind.FAILED, Kind.REFUSED})
"""Phones that failed so have answered, and would answer alike if they were asked again at once."""


@dataclass(frozen=True)
class Failure:
    """A phone whose update did not count, and why; or several behind one edge server.

    Attributes:
        phone: its number, or the edge server's.
        reason: for people.
        kind: of the failure.
        behind: phones behind that edge server for which this stands; 0 where it is about `phone` itself.
    """

    phone: int
    reason: str
    kind: Kind = Kind.FAILED
    behind: int = 0

    @property
    def count(self) -> int:
        """How many updates did not count."""
        return self.behind or 1


def reasons_of(failures: Iterable[Failure], longest: int = 300) -> str:
    """Why updates did not count, each reason once, in at most so many characters."""
    return "; ".join(dict.fromkeys(failure.reason for failure in failures))[:longest]


@dataclass(frozen=True)
class Outcome:
    """A finished round.

    Attributes:
        round: from 1.
        model: the new global model.
        loss: mean over the accepted updates, by modality, weighted by its captures.
        phones: how many updates were folded, those of phones behind edge servers included.
        failures: the phones whose updates were not.
        bytes_down, bytes_up: of weights, between this server and its own phones and edges.
        seconds: from choosing phones to the last fold.
        phases: seconds by what they were spent on: `waiting` for phones, `sending`, `collecting`, `folding`.
        attempt: how many times the round had to be begun anew.
        privacy: what all rounds so far have cost; None where nothing is protected.
        staleness: of each update that was folded, how many rounds it was behind.
        bundles: how many of those updates were made with which bundle, by its id, the most frequent first; of phones
            that said so.
    """

    round: int
    model: GlobalModel
    loss: Mapping[Modality, float]
    phones: int
    failures: tuple[Failure, ...]
    bytes_down: int
    bytes_up: int
    seconds: float
    phases: Mapping[str, float] = field(default_factory=dict)
    attempt: int = 0
    privacy: Spent | None = None
    staleness: Sequence[int] = ()
    bundles: Mapping[str, int] = field(default_factory=dict)

    @property
    def weights(self) -> NDArray[np.float32]:
        """The new global weights, float32 [p]."""
        return self.model.weights

    @property
    def failed(self) -> int:
        """How many updates did not count."""
        return sum(failure.count for failure in self.failures)

    @staticmethod
    def untrained(weights: NDArray[np.float32]) -> "Outcome":
        """Round 0: nobody was asked."""
        return Outcome(0, GlobalModel(weights), {}, 0, (), 0, 0, 0.0)


class RoundWatcher(Protocol):
    """Whoever watches rounds: a progress bar, a page, a log. A subclass listens to what it wants."""

    def waiting(self, present: int, needed: int) -> None:
        """Too few phones are there that may be asked; called again while that lasts."""
        return

    def begun(self, round_number: int, attempt: int, cohort: Sequence[int], present: int) -> None:
        """These phones are being asked, of `present` that might have been."""
        return

    def answered(self, round_number: int, done: int, cohort: int) -> None:
        """A phone's answer has been folded or refused."""
        return

    def abandoned(self, round_number: int, attempt: int, failures: Sequence[Failure]) -> None:
        """Too few phones answered, or to no use; the round begins anew with other phones."""
        return

    def finished(self, outcome: Outcome) -> None:
        """A round is finished and not yet safe; whoever persists it does so now."""
        return

    def trouble(self, text: str) -> None:
        """Rounds go on and something is wrong, such as a full disk or a model that cannot be used."""
        return

"""Where the stacked bars of time per phase lie. Numbers only; the template draws them."""

from collections.abc import Sequence
from dataclasses import dataclass

from pocketfed.core.pages.chart import FRAME, decimals, ticks
from pocketfed.server.watch.snapshot import RoundLine

SHOWN = 40
"""Bars that fit beside each other."""


@dataclass(frozen=True)
class Piece:
    """The seconds that one round spent on one phase."""

    phase: str
    seconds: float
    top: float
    height: float


@dataclass(frozen=True)
class Bar:
    """One round."""

    round: int
    left: float
    pieces: tuple[Piece, ...]


@dataclass(frozen=True)
class Bars:
    """Stacked bars of the last rounds, from 0 to the outer tick, all of one width."""

    bars: tuple[Bar, ...]
    width: float
    upwards: tuple[float, ...]
    digits: int

    def y(self, seconds: float) -> float:
        """Where a height lies."""
        return _y(seconds, self.upwards[-1])


def stack(rounds: Sequence[RoundLine]) -> Bars | None:
    """Bars of the last rounds, the first phase at the bottom; None if none of them has phases."""
    lines = rounds[-SHOWN:]
    highest = max((sum(line.phases.values()) for line in lines), default=0.0)
    if highest <= 0:
        return None
    upwards = ticks(0.0, highest)
    room = (FRAME[1] - FRAME[0]) / max(len(lines), 12)  # a few rounds are not drawn as walls
    bars = []
    for index, line in enumerate(lines):
        pieces, below = [], 0.0
        for phase, seconds in line.phases.items():
            top, bottom = _y(below + seconds, upwards[-1]), _y(below, upwards[-1])
            pieces.append(Piece(phase, seconds, top, bottom - top))
            below += seconds
        bars.append(Bar(line.round, FRAME[0] + room * (index + 0.14), tuple(pieces)))
    return Bars(tuple(bars), room * 0.72, upwards, decimals(upwards))


def _y(seconds: float, highest: float) -> float:
    return FRAME[3] - (FRAME[3] - FRAME[2]) * seconds / highest

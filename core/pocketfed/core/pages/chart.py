"""Where the curves of a chart lie. Numbers only; `macros.html.j2` draws them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

FRAME = (50.0, 388.0, 12.0, 188.0)
"""Left, right, top and bottom of the plotting area of a chart, in the units of its viewBox."""

LARGEST = 1e300
"""Values beyond it, and those that are not finite, are not drawn: the arithmetic of a chart would overflow."""


@dataclass(frozen=True)
class Chart:
    """Curves of (round or time, value) in one frame, from `first` to `last`, values between the outer ticks."""

    curves: Mapping[str, Sequence[tuple[float, float]]]
    last: float
    across: tuple[float, ...]
    upwards: tuple[float, ...]
    first: float = 0

    def x(self, at: float) -> float:
        """Where a round or time lies."""
        return FRAME[0] + (FRAME[1] - FRAME[0]) * (at - self.first) / (self.last - self.first)

    def y(self, value: float) -> float:
        """Where a value lies."""
        low, high = self.upwards[0], self.upwards[-1]
        return FRAME[3] - (FRAME[3] - FRAME[2]) * (value - low) / (high - low)

    def digits(self, factor: float) -> int:
        """Decimals that tell the ticks apart once they are multiplied by `factor`."""
        return decimals(self.upwards, factor)


def chart(curves: Mapping[str, Sequence[tuple[float, float]]], last: float, first: float = 0) -> Chart | None:
    """The curves that have values, in a frame around all of them; None if there are none. `first` < `last`."""
    present = {name: values for name, values in curves.items() if values}
    values = [value for points in present.values() for _, value in points]
    if not values:
        return None
    across = tuple(at for at in ticks(first, last, least=1) if first <= at <= last)
    return Chart(present, last, across, ticks(min(values), max(values)), first)


def ticks(low: float, high: float, least: float = 0.005) -> tuple[float, ...]:
    """Two to seven multiples of 1, 2 or 5 times a power of ten, at least `least` apart, from <= low to >= high."""
    gap = max((high - low) / 4, least, abs(high) * 0.02)
    power = 10.0 ** math.floor(math.log10(gap) + 1e-9)
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= gap * (1 - 1e-9))
    first, final = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return tuple(index * step for index in range(first, max(final, first + 1) + 1))


def decimals(upwards: Sequence[float], factor: float = 1.0) -> int:
    """Decimals that tell evenly spaced ticks apart once they are multiplied by `factor`."""
    return max(0, -math.floor(math.log10(factor * (upwards[1] - upwards[0])) + 1e-9))

"""What a server optimiser makes of a direction: pure functions of it and of the moments, as formulas write them.

momentum    m <- beta m + d                   step = eta m
adaptive    m <- beta m + (1 - beta) d        v <- grown(v, d^2)        step = eta m / (sqrt(v) + tau)
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Vector: TypeAlias = NDArray[np.float64]
"""Of the scalars that are no running statistics, in the order of the layout."""

Moments: TypeAlias = Mapping[str, Vector]
"""By name."""

Grown: TypeAlias = Callable[[Vector, Vector], Vector]
"""The second moment and the squares of a direction -> the second moment after it."""


@dataclass(frozen=True)
class Steps:
    """An optimiser.

    Attributes:
        initial: what every entry of a moment is before the first step, by its name.
        update: a direction and the moments -> what to add to the weights, and the moments of the next step.
    """

    initial: Mapping[str, float]
    update: Callable[[Vector, Moments], tuple[Vector, Moments]]


def momentum(rate: float, beta: float) -> Steps:
    """Directions of the past fade away."""

    def update(direction: Vector, moments: Moments) -> tuple[Vector, Moments]:
        first = beta * moments["momentum"] + direction
        return rate * first, {"momentum": first}

    return Steps({"momentum": 0.0}, update)


def adaptive(rate: float, beta: float, tau: float, second: float | None, grown: Grown) -> Steps:
    """Each scalar's step is divided by the size of its past directions; `second` None begins at tau squared."""

    def update(direction: Vector, moments: Moments) -> tuple[Vector, Moments]:
        first = beta * moments["momentum"] + (1 - beta) * direction
        square = grown(moments["second"], np.square(direction))
        return rate * first / (np.sqrt(square) + tau), {"momentum": first, "second": square}

    return Steps({"momentum": 0.0, "second": tau**2 if second is None else second}, update)


def summed(second: Vector, square: Vector) -> Vector:
    """Adagrad's growth."""
    return second + square


def towards(beta: float) -> Grown:
    """Yogi's growth: by a part of the square, whatever the distance."""
    return lambda second, square: second - (1 - beta) * square * np.sign(second - square)


def averaged(beta: float) -> Grown:
    """Adam's growth."""
    return lambda second, square: beta * second + (1 - beta) * square

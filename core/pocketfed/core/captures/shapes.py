"""The classes of the embedded photos: what is inside a shape of radius about 1 around the origin."""

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

Plane = NDArray[np.float64]
Inside = NDArray[np.bool_]


def _disc(u: Plane, v: Plane) -> Inside:
    return np.hypot(u, v) < 0.9


def _ring(u: Plane, v: Plane) -> Inside:
    radius = np.hypot(u, v)
    return (radius > 0.55) & (radius < 0.95)


def _square(u: Plane, v: Plane) -> Inside:
    return np.maximum(np.abs(u), np.abs(v)) < 0.8


def _triangle(u: Plane, v: Plane) -> Inside:
    return (v > -0.6) & (v < 1.1 - 1.732 * np.abs(u))


def _cross(u: Plane, v: Plane) -> Inside:
    long, short = np.maximum(np.abs(u), np.abs(v)), np.minimum(np.abs(u), np.abs(v))
    return (long < 1.0) & (short < 0.28)


def _stripes(u: Plane, v: Plane) -> Inside:
    return (np.hypot(u, v) < 1.0) & (np.sin(10.0 * u) > 0)


def _chequers(u: Plane, v: Plane) -> Inside:
    return (np.maximum(np.abs(u), np.abs(v)) < 0.9) & (np.sin(7.0 * u) * np.sin(7.0 * v) > 0)


def _dots(u: Plane, v: Plane) -> Inside:
    """Four discs at the corners of a square."""
    return np.hypot(np.abs(u) - 0.6, np.abs(v) - 0.6) < 0.32


SHAPES: Mapping[str, Callable[[Plane, Plane], Inside]] = {
    "disc": _disc,
    "ring": _ring,
    "square": _square,
    "triangle": _triangle,
    "cross": _cross,
    "stripes": _stripes,
    "chequers": _chequers,
    "dots": _dots,
}
"""Class name to `(u, v) -> inside`; float64, float64 and bool of one shape, u to the right, v up."""

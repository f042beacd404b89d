"""How a vector of weights, or of changes of weights, is written for its journey.

    float32   4 bytes for each number, in the order of the layout
    float16   the buffers as float32, then 2 bytes for each trained number
    int8      a float32 scale for each slice, then 2 bytes for each number of the buffers, then 1 byte for each trained number

All little-endian. A trained slice x of int8 has the scale s = max |x| / 127 and the levels q = floor(x / s + u) with u
uniform in [0, 1), so that the mean of s q over u is x (Alistarh et al., QSGD, NeurIPS 2017, with a scale for each slice:
our choice).

Buffers are places and no changes: a variance of which a level at random is left would end all learning. So they are
float32, and beside int8, where that is up to a tenth of all bytes, float16 of x / s with the power of two s for which
2^14 <= max |x| / s < 2^15. Whatever their size they are so within 1 / 2048 of themselves, down to 2^-29 of the largest of
the slice, and no variance becomes negative or infinite.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:  # who only reads records needs no torch
    from pocketfed.core.layout import Layout

LEVELS = 127
"""Of int8, in either direction."""


class Format(StrEnum):
    """How numbers are written."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    INT8 = "int8"


@dataclass(frozen=True)
class Packed:
    """Numbers as they travel; only who knows their layout can read them.

    Attributes:
        format: how they are written.
        content: the bytes.
    """

    format: Format
    content: bytes


def packed_size(layout: Layout, form: Format) -> int:
    """Bytes that a vector of this layout takes."""
    trained, buffers = layout.trained, layout.size - layout.trained
    match form:
        case Format.FLOAT32:
            return 4 * layout.size
        case Format.FLOAT16:
            return 4 * buffers + 2 * trained
        case Format.INT8:
            return 4 * len(layout.slices) + 2 * buffers + trained


def encode(
    vector: NDArray[np.float32], layout: Layout, form: Format, uniform: NDArray[np.float32] | None = None
) -> bytes:
    """A vector as bytes.

    Args:
        vector: float32 [layout.size], finite.
        layout: of the vector.
        form: how to write it.
        uniform: random numbers in [0, 1), float32 [layout.trained]; only int8 needs them.

    Raises:
        ValueError: int8 without random numbers.
    """
    if form is Format.FLOAT32:
        return vector.astype("<f4", copy=False).tobytes()
    trained, buffers = vector[: layout.trained], vector[layout.trained :]
    if form is Format.FLOAT16:
        with np.errstate(over="ignore"):  # what is too large becomes infinite, which readers refuse
            return b"".join((buffers.astype("<f4").tobytes(), trained.astype("<f2").tobytes()))
    if uniform is None:
        raise ValueError("int8 is rounded at random and needs random numbers")
    sizes = [part.size for part in layout.slices]
    few = len(sizes) - len(layout.buffers)
    largest = np.asarray([np.abs(piece).max(initial=0.0) for piece in layout.parts(vector)], np.float32)
    scales = largest.astype("<f4")
    scales[:few] /= LEVELS
    scales[few:] = _powers(largest[few:])
    steps = np.repeat(scales[:few].astype(np.float64), sizes[:few])
    ratios = np.divide(trained, steps, out=np.zeros(layout.trained), where=steps > 0)
    levels = np.clip(np.floor(ratios + uniform), -LEVELS, LEVELS).astype(np.int8)
    halves = buffers / np.repeat(scales[few:], sizes[few:])
    return b"".join((scales.tobytes(), halves.astype("<f2").tobytes(), levels.tobytes()))


def decode(packed: Packed, layout: Layout) -> NDArray[np.float32]:
    """The inverse of `encode`, up to what was rounded: float32 [layout.size], writable.

    Raises:
        ValueError: the length is not that of this layout, or a scale is negative or not finite.
    """
    form, content = packed.format, packed.content
    if len(content) != (expected := packed_size(layout, form)):
        raise ValueError(f"{form} weights are {len(content)} bytes, expected {expected}")
    if form is Format.FLOAT32:
        return np.frombuffer(content, "<f4").astype(np.float32)
    trained, buffers = layout.trained, layout.size - layout.trained
    result = np.empty(layout.size, dtype=np.float32)
    if form is Format.FLOAT16:
        result[trained:] = np.frombuffer(content, "<f4", buffers)
        result[:trained] = np.frombuffer(content, "<f2", offset=4 * buffers)
        return result
    scales = np.frombuffer(content, "<f4", len(layout.slices)).astype(np.float32)
    if not (np.isfinite(scales) & (scales >= 0)).all():
        raise ValueError("a scale is negative or not finite")
    steps, begin = np.repeat(scales, [part.size for part in layout.slices]), scales.nbytes
    with np.errstate(over="ignore", invalid="ignore"):  # which the guard refuses
        np.multiply(np.frombuffer(content, "<f2", buffers, begin), steps[trained:], result[trained:])
        np.multiply(
            np.frombuffer(content, np.int8, offset=begin + 2 * buffers), steps[:trained], result[:trained]
        )
    return result


def _powers(largest: NDArray[np.float32]) -> NDArray[np.float32]:
    """The powers of two that bring the largest numbers of slices to 2^14 at least, and below 2^15."""
    exponents = np.frexp(largest)[1]  # of numbers from 1/2 to 1
    powers: NDArray[np.float32] = np.ldexp(
        np.float32(1), np.maximum(exponents - 15, -126)
    )  # float32 has those
    return powers

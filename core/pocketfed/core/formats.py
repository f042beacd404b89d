"""How a vector of weights, or of changes of weights, is written for its journey.

    float32   4 bytes for each number, in the order of the layout
    float16   the buffers as float32, then 2 bytes for each trained number
    int8      a float32 scale for each trained slice, the buffers as float32, then 1 byte for each trained number

All little-endian. Buffers are never rounded: a variance that rounding makes negative would end all learning, and they
are few. An int8 slice x has the scale s = max |x| / 127 and the levels q = floor(x / s + u) with u uniform in [0, 1),
so that the mean of s q over u is x (Alistarh et al., QSGD, NeurIPS 2017, with a scale for each slice: our choice).
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
            return 4 * len(_trained_sizes(layout)) + 4 * buffers + trained


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
    trained, buffers = vector[: layout.trained], vector[layout.trained :].astype("<f4").tobytes()
    if form is Format.FLOAT16:
        with np.errstate(over="ignore"):  # what is too large becomes infinite, which readers refuse
            return buffers + trained.astype("<f2").tobytes()
    if uniform is None:
        raise ValueError("int8 is rounded at random and needs random numbers")
    sizes = _trained_sizes(layout)
    pieces = layout.parts(np.abs(trained))[: len(sizes)]
    scales = np.asarray([piece.max(initial=0.0) / LEVELS for piece in pieces], dtype="<f4")
    steps = np.repeat(scales.astype(np.float64), sizes)
    ratios = np.divide(trained, steps, out=np.zeros(layout.trained), where=steps > 0)
    levels = np.clip(np.floor(ratios + uniform), -LEVELS, LEVELS).astype(np.int8)
    return scales.tobytes() + buffers + levels.tobytes()


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
    sizes = _trained_sizes(layout) if form is Format.INT8 else []
    scales = np.frombuffer(content, "<f4", len(sizes)).astype(np.float32)
    begin, buffers = scales.nbytes, layout.size - layout.trained
    result = np.empty(layout.size, dtype=np.float32)
    result[layout.trained :] = np.frombuffer(content, "<f4", buffers, begin)
    begin += 4 * buffers
    if form is Format.FLOAT16:
        result[: layout.trained] = np.frombuffer(content, "<f2", offset=begin)
        return result
    if not (np.isfinite(scales) & (scales >= 0)).all():
        raise ValueError("a scale is negative or not finite")
    with np.errstate(over="ignore"):  # which the guard refuses
        np.multiply(
            np.frombuffer(content, np.int8, offset=begin), np.repeat(scales, sizes), result[: layout.trained]
        )
    return result


def _trained_sizes(layout: Layout) -> list[int]:
    """Of the slices that come before the buffers."""
    return [part.size for part in layout.slices if part.offset < layout.trained]

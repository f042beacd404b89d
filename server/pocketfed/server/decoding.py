"""From an update as it travelled to weights as rules see them.

With W what the server has, S what it sent (W, or W rounded to float16) and c the change that a phone made from S:

    packed update    w = W + c
    float32 weights  w = v + (W - S), which is v itself where S = W

The change is added to the server's own weights and not to the rounded ones. So a phone that changes nothing gives W
itself back, and steps that are smaller than a step of float16 add up over the rounds; from rounded weights they would
be lost in each. Buffers travel as values.
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from pocketfed.core.errors import UpdateRejected
from pocketfed.core.formats import Format, Packed, decode, encode
from pocketfed.core.plan import Update
from pocketfed.core.travel import Travel
from pocketfed.server.aggregators import Broadcast


def decoded(update: Update, base: Broadcast, travel: Travel) -> Update:
    """The update with weights in place of what it was packed in; not yet checked otherwise.

    Args:
        update: what a phone sent.
        base: what the round of the update began with.
        travel: what was asked for.

    Raises:
        UpdateRejected: it is not in the format that was asked for, or cannot be decoded with this layout.
    """
    layout = base.layout
    if update.format is not travel.up:
        raise UpdateRejected(f"the update has the format {update.format}, {travel.up} was asked for")
    if update.packed is None and travel.down is Format.FLOAT32:
        return update
    if update.layout != layout.digest:
        raise UpdateRejected(f"weights have the layout {update.layout[:12]!r}, not this run's")
    if update.packed is None:
        return replace(update, weights=_from_rounded(update.weights, base, travel.down))
    try:
        weights = decode(update.packed, layout)
    except ValueError as error:
        raise UpdateRejected(str(error)) from error
    with np.errstate(over="ignore", invalid="ignore"):  # what is not finite, the guard refuses
        weights[: layout.trained] += base.weights[: layout.trained]
    return replace(update, weights=weights, packed=None)


def _from_rounded(weights: NDArray[np.float32], base: Broadcast, down: Format) -> NDArray[np.float32]:
    """v + (W - S). The difference is exact: float16 keeps the upper bits of a float32."""
    if weights.shape != base.weights.shape:
        raise UpdateRejected(f"weights are {list(weights.shape)}, expected {list(base.weights.shape)}")
    trained = base.layout.trained
    sent = decode(Packed(down, encode(base.weights, base.layout, down)), base.layout)
    result = weights.copy()
    with np.errstate(over="ignore", invalid="ignore"):
        result[:trained] += base.weights[:trained] - sent[:trained]
    return result

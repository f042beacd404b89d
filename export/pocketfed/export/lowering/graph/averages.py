"""Sums over the rows of a matrix, as averages that XNNPACK takes where the matrix lies.

The lowering writes such a sum as a product with a row of ones. XNNPACK copies the right side of a product into another
order first; its average over the pixels of [1, H, W, C] only reads. A matrix [R, C] is such pixels, one row high:

    [1/R … 1/R] @ x  =  mean over H and W of x as [1, 1, R, C]

`aten.mean` wants the channels second. The permutation that says so is none of memory: `xnnpack_passes` takes it away.
"""

import torch
from torch import fx

from pocketfed.export.lowering.graph.builder import Builder, shape
from pocketfed.export.lowering.graph.elementwise import elementwise

aten = torch.ops.aten

CHANNELS_SECOND = (0, 3, 1, 2)  # of pixels [1, H, W, C]
MIN_AVERAGED = 16384  # numbers below which copying them costs less than further operators


def row_weight(builder: Builder, left: fx.Node, right: fx.Node) -> float | None:
    """The number that a constant row [1, R] left of a large matrix repeats; None for other products."""
    value = builder.value(left)
    if value is None or value.shape[0] != 1 or right.meta["val"].numel() < MIN_AVERAGED:
        return None
    if not bool((value == value[0, 0]).all()):
        return None
    return float(value[0, 0])


def weighted_average(builder: Builder, weight: float, x: fx.Node) -> fx.Node:
    """weight * (sum over the rows of x): [R, C] -> [1, C]."""
    rows, columns = shape(x)
    pixels = builder.reshape(x, [1, 1, rows, columns])
    average = builder.call(aten.mean.dim, builder.permute_now(pixels, CHANNELS_SECOND), [2, 3], True)
    flat = builder.reshape(average, [1, columns])
    plain = weight == float(torch.tensor(1.0 / rows))
    return flat if plain else elementwise(builder, aten.mul.Tensor, flat, weight * rows)

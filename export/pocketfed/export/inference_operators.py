"""How the operators of a network with constant weights are written for XNNPACK.

Unlike in a learning step, convolutions stay convolutions. They work in [N, H, W, C], and so does every elementwise
operator between them, as long as nothing is reshaped: normalisation is therefore written with [N, C, 1, 1] only.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload

from pocketfed.export.lowering import Passes
from pocketfed.export.lowering.operators import activations, normalisation, pooling, reductions
from pocketfed.export.lowering.operators.table import decompositions

aten = torch.ops.aten

NATIVE = (
    aten.convolution.default, aten.linear.default, aten.max_pool2d.default, aten.prelu.default,
    aten.hardswish.default, aten.upsample_bilinear2d.vec,
)  # fmt: skip
"""Operators that XNNPACK has kernels for if their weights are constants."""


def inference_decompositions() -> dict[OpOverload, Callable[..., Any]]:
    """The lowering's decompositions, except of what XNNPACK does better itself."""
    table = decompositions(Passes())
    for operator in NATIVE:
        table.pop(operator, None)
    return table | {
        aten.native_group_norm.default: group_norm,
        aten.mean.dim: mean,
        aten._adaptive_avg_pool2d.default: adaptive_avg_pool2d,
        aten.adaptive_avg_pool2d.default: adaptive_avg_pool2d,  # as itself it would write strides
        aten.gelu.default: gelu,
        aten.split_with_sizes.default: split,
        aten.select.int: select,
    }


def group_norm(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    batch: int,
    channels: int,
    positions: int,
    groups: int,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """x [N, C, …] -> (y [N, C, …], mean, reciprocal deviation), the last two of no fixed shape: nobody asks for them."""
    if x.dim() != 4:
        return normalisation.group_norm(Passes(), x, weight, bias, batch, channels, positions, groups, eps)
    members = channels // groups
    # Comparisons, because what depends on constants only is folded, but not through every operator.
    group_of = torch.div(torch.arange(channels), members, rounding_mode="floor").unsqueeze(1)  # [C, 1]
    spread = (group_of == torch.arange(groups)).float()  # [C, G]
    gather = spread.t() * (1.0 / members)  # [G, C]
    group_mean = _pointwise(x.mean((2, 3), keepdim=True), gather)  # [N, G, 1, 1]
    centred = x - _pointwise(group_mean, spread)
    variance = _pointwise((centred * centred).mean((2, 3), keepdim=True), gather)  # [N, G, 1, 1]
    inverse = torch.rsqrt(variance + eps)
    # The norm's weight rides along with the spreading of the group's deviation over its channels.
    y = centred * _pointwise(inverse, spread if weight is None else spread * weight.unsqueeze(1))
    if bias is not None:
        y = y + bias.reshape(1, channels, 1, 1)
    return y, group_mean, inverse


def mean(
    x: Tensor, dims: Sequence[int] | None, keepdim: bool = False, dtype: torch.dtype | None = None
) -> Tensor:
    """Mean over `dims`; over the space of an image it is XNNPACK's own pooling."""
    if x.dim() != 4 or sorted(dim % 4 for dim in dims or ()) != [2, 3]:
        return reductions.mean_over(x, dims, keepdim, dtype)
    if keepdim and dtype is None:
        return NotImplemented  # type: ignore[no-any-return]  # stays as it is
    pooled: Tensor = aten.mean.dim(x, [2, 3], True)
    return pooled if keepdim else pooled.reshape(x.shape[:2])


def adaptive_avg_pool2d(x: Tensor, size: Sequence[int]) -> Tensor:
    """x [N, C, H, W] -> [N, C, *size]."""
    if list(size) == [1, 1] and x.dim() == 4:
        return x.mean((2, 3), keepdim=True)
    return pooling.adaptive_avg_pool2d(x, size)


def gelu(x: Tensor, approximate: str = "none") -> Tensor:
    """x * Phi(x), or its tanh form, which ExecuTorch would silently replace by the first."""
    return NotImplemented if approximate == "none" else activations.gelu(x, approximate)


def split(x: Tensor, sizes: Sequence[int], dim: int = 0) -> list[Tensor]:
    """Consecutive slices of these sizes."""
    starts = itertools.accumulate(sizes, initial=0)
    return [x.narrow(dim, start, size) for start, size in zip(starts, sizes, strict=False)]


def select(x: Tensor, dim: int, index: int) -> Tensor:
    """One position of an axis, which disappears."""
    axis = dim % x.dim()
    shape = [*x.shape[:axis], *x.shape[axis + 1 :]]
    return x.narrow(axis, index % x.shape[axis], 1).reshape(shape)


def _pointwise(x: Tensor, matrix: Tensor) -> Tensor:
    """[N, I, 1, 1] and constant [O, I] -> [N, O, 1, 1]: a convolution of one place keeps the layout."""
    kernel = matrix.reshape(*matrix.shape, 1, 1)
    out: Tensor = aten.convolution(x, kernel, None, [1, 1], [0, 0], [1, 1], False, [0, 0], 1)
    return out

"""Sums, means and maxima as matrix products and pairwise maxima."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from pocketfed.core.errors import ExportError

LONG = 1024
"""Rows above which a column is added up in two stages."""


def column_sums(x: Tensor) -> Tensor:
    """[R, C] -> [1, C].

    A product adds up its terms one by one and rounds each sum. A batch's statistics have tens of thousands of terms, and were
    off by 1e-5, which turned ReLUs on and off. Two stages of about sqrt(R) terms take no longer, and are off by 3e-7.
    """
    rows, columns = x.shape
    parts = divisor_near_root(rows)
    if rows < LONG or parts == 1:
        return torch.mm(torch.ones(1, rows), x)
    some = torch.mm(torch.ones(1, parts), x.reshape(parts, -1))  # [1, R/parts * C]
    return torch.mm(torch.ones(1, rows // parts), some.reshape(-1, columns))


def divisor_near_root(count: int) -> int:
    """The largest divisor of a number, from 1 on, that is not above its square root.

    >>> [divisor_near_root(count) for count in (1, 12, 13, 65536)]
    [1, 3, 1, 256]
    """
    return max(part for part in range(1, math.isqrt(count) + 1) if count % part == 0)


def column_means(x: Tensor) -> Tensor:
    """[R, C] -> [1, C]."""
    return torch.mm(torch.full((1, x.shape[0]), 1.0 / x.shape[0]), x)


def row_sums(x: Tensor) -> Tensor:
    """[R, C] -> [R, 1]."""
    return torch.mm(x, torch.ones(x.shape[1], 1))


def total(x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Any shape -> [], the sum of everything."""
    del dtype
    width = x.shape[-1] if x.dim() else 1
    return row_sums(column_sums(x.reshape(-1, width))).reshape(())


def sum_over(
    x: Tensor, dims: Sequence[int] | None, keepdim: bool = False, dtype: torch.dtype | None = None
) -> Tensor:
    """Sum over `dims` (all of them if none are given)."""
    del dtype
    reduced = _sorted(dims, x.dim())
    kept = [dim for dim in range(x.dim()) if dim not in reduced]
    count = math.prod(x.shape[dim] for dim in reduced)
    shape = [1 if dim in reduced else x.shape[dim] for dim in range(x.dim())]
    if not keepdim:
        shape = [x.shape[dim] for dim in kept]
    if not kept:
        return total(x).reshape(shape)
    if count == 1:
        return x.reshape(shape)
    trailing = reduced == list(range(len(kept), x.dim()))
    image = reduced == [2, 3]  # the space of [N, C, H, W], which is stored first
    if trailing and not image:
        return row_sums(x.reshape(-1, count)).reshape(shape)
    return column_sums(x.permute(*reduced, *kept).reshape(count, -1)).reshape(shape)


def mean_all(x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Any shape -> [], the mean of everything."""
    return total(x, dtype) * (1.0 / x.numel())


def mean_over(
    x: Tensor, dims: Sequence[int] | None, keepdim: bool = False, dtype: torch.dtype | None = None
) -> Tensor:
    """Mean over `dims` (all of them if none are given)."""
    count = math.prod(x.shape[dim] for dim in _sorted(dims, x.dim()))
    return sum_over(x, dims, keepdim, dtype) * (1.0 / count)


def variance_over(
    x: Tensor, dims: Sequence[int] | None = None, *, correction: float | None = None, keepdim: bool = False
) -> Tensor:
    """Variance over `dims`; one is subtracted from the count unless `correction` says otherwise."""
    count = math.prod(x.shape[dim] for dim in _sorted(dims, x.dim()))
    centred = x - mean_over(x, dims, keepdim=True)
    divisor = count - (1 if correction is None else correction)
    return sum_over(centred * centred, dims, keepdim) * (1.0 / divisor)


def vector_norm(
    x: Tensor,
    order: float = 2,
    dims: Sequence[int] | None = None,
    keepdim: bool = False,
    *,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """The Euclidean or the absolute norm over `dims`."""
    if order == 1:
        return sum_over(torch.abs(x), dims, keepdim, dtype)
    if order != 2:
        raise ExportError(f"aten.linalg_vector_norm of order {order} cannot be lowered; use order 1 or 2.")
    return torch.sqrt(sum_over(x * x, dims, keepdim, dtype))


def maximum_over(x: Tensor, dims: Sequence[int] = (), keepdim: bool = False) -> Tensor:
    """Maximum over `dims`, by halving: log2(n) pairwise maxima of overlapping halves."""
    reduced = _sorted(dims, x.dim())
    y = x
    for dim in reduced:
        while y.shape[dim] > 1:
            size = y.shape[dim]
            half = -(-size // 2)
            y = torch.maximum(y.narrow(dim, 0, half), y.narrow(dim, size - half, half))
    if keepdim:
        return y
    return y.reshape([x.shape[dim] for dim in range(x.dim()) if dim not in reduced])


def minimum_over(x: Tensor, dims: Sequence[int] = (), keepdim: bool = False) -> Tensor:
    """Minimum over `dims`."""
    return -maximum_over(-x, dims, keepdim)


def softmax_backward(grad: Tensor, y: Tensor, dim: int, input_dtype: torch.dtype) -> Tensor:
    """Gradient of softmax from its output y: y * (grad - sum(grad * y))."""
    del input_dtype
    weighted = grad * y
    return weighted - y * sum_over(weighted, [dim], keepdim=True)


def log_softmax(x: Tensor, dim: int, half_to_float: bool) -> Tensor:
    """x - log(sum(exp(x))), stabilised by the maximum."""
    del half_to_float
    shifted = x - maximum_over(x, [dim], keepdim=True)
    return shifted - torch.log(sum_over(torch.exp(shifted), [dim], keepdim=True))


def log_softmax_backward(grad: Tensor, y: Tensor, dim: int, input_dtype: torch.dtype) -> Tensor:
    """Gradient of log-softmax from its output y."""
    del input_dtype
    return grad - torch.exp(y) * sum_over(grad, [dim], keepdim=True)


def _sorted(dims: Sequence[int] | None, rank: int) -> list[int]:
    return sorted({dim % rank for dim in dims}) if dims else list(range(rank))

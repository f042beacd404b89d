"""Moving along one axis of a tensor: the few primitives that every convolution is written with."""

from collections.abc import Sequence

import torch
from torch import Tensor

SUMMED_ROWS = 1024  # the least length of the sums that `inner_products` cuts a long sum into


def spatial_first(x: Tensor) -> Tensor:
    """[N, C, H, W] -> [H, W, N, C], the order in which neighbouring pixels are long runs of memory."""
    return x.permute(2, 3, 0, 1)


def batch_first(x: Tensor) -> Tensor:
    """[H, W, N, C] -> [N, C, H, W], the inverse of `spatial_first` (and the same permutation)."""
    return x.permute(2, 3, 0, 1)


def concatenate(tensors: Sequence[Tensor], dim: int) -> Tensor:
    """`torch.cat` that leaves a single tensor alone."""
    return tensors[0] if len(tensors) == 1 else torch.cat(list(tensors), dim)


def pad(x: Tensor, dim: int, before: int, after: int) -> Tensor:
    """Zeros before and after the positions of one axis."""
    if before == after == 0:
        return x
    amounts = [0] * (2 * x.dim())
    amounts[2 * (x.dim() - 1 - dim)] = before
    amounts[2 * (x.dim() - 1 - dim) + 1] = after
    return torch.constant_pad_nd(x, amounts)


def windows(x: Tensor, dim: int, starts: Sequence[int], length: int) -> list[Tensor]:
    """For each start, the positions `start … start + length - 1` of an axis; zeros outside the tensor."""
    size = x.shape[dim]
    inside = [start for start in starts if not (start == 0 and length == size)]
    before = max(0, -min(inside, default=0))
    after = max(0, max((start + length for start in inside), default=size) - size)
    padded = pad(x, dim, before, after)
    return [
        x if start == 0 and length == size else padded.narrow(dim, start + before, length) for start in starts
    ]


def window(x: Tensor, dim: int, start: int, length: int) -> Tensor:
    """The positions `start … start + length - 1` of an axis; zeros outside the tensor."""
    size = x.shape[dim]
    first, last = min(max(start, 0), size), min(max(start + length, 0), size)
    if first >= last:
        return pad(x.narrow(dim, 0, 1) * 0.0, dim, 0, length - 1)
    return pad(x.narrow(dim, first, last - first), dim, first - start, start + length - last)


def phases(x: Tensor, dim: int, stride: int) -> list[Tensor]:
    """Position `k * stride + p` of the axis becomes position k of phase p; zeros fill up the last ones."""
    if stride == 1:
        return [x]
    size = x.shape[dim]
    count = -(-size // stride)
    shape = list(x.shape)
    split = pad(x, dim, 0, count * stride - size).reshape([*shape[:dim], count, stride, *shape[dim + 1 :]])
    shape[dim] = count
    return [split.narrow(dim + 1, phase, 1).reshape(shape) for phase in range(stride)]


def interleave(parts: Sequence[Tensor | None], dim: int, size: int) -> Tensor:
    """The inverse of `phases`: an axis of `size` positions; a missing part stands for zeros."""
    if len(parts) == 1 and parts[0] is not None:
        return parts[0].narrow(dim, 0, size)
    some = next(part for part in parts if part is not None)
    shape = list(some.shape)
    column = [*shape[: dim + 1], 1, *shape[dim + 1 :]]
    present = [index for index, part in enumerate(parts) if part is not None]
    first, last = present[0], present[-1] + 1
    filled = [(some * 0.0 if part is None else part).reshape(column) for part in parts[first:last]]
    both = pad(concatenate(filled, dim + 1), dim + 1, first, len(parts) - last)
    joined = both.reshape([*shape[:dim], shape[dim] * len(parts), *shape[dim + 1 :]])
    return joined.narrow(dim, 0, size)


def gather(x: Tensor, dim: int, offset: int, stride: int, length: int) -> Tensor:
    """The positions `stride * k + offset` of an axis for k < length; zeros outside the tensor."""
    return phases(window(x, dim, offset, stride * length), dim, stride)[0]


def scatter(y: Tensor, dim: int, offset: int, stride: int, size: int) -> Tensor:
    """The transpose of `gather`: position k goes to `stride * k + offset` of `size`, zeros elsewhere."""
    spread = interleave([y] + [None] * (stride - 1), dim, stride * y.shape[dim])
    return window(spread, dim, -offset, size)


def inner_products(a: Tensor, b: Tensor) -> Tensor:
    """a.T @ b for tall a [R, m] and b [R, n] -> [m, n]. The narrower side is the one transposed.

    Long sums are cut into batches: a product's inner dimension should stay within the cache.
    """
    if b.shape[1] < a.shape[1]:
        return inner_products(b, a).t()
    rows, m = a.shape
    n = b.shape[1]
    batches = _batches(rows)
    if batches == 1:
        return torch.mm(a.t(), b)
    products = torch.bmm(a.reshape(batches, -1, m).permute(0, 2, 1), b.reshape(batches, -1, n))  # [B, m, n]
    return torch.mm(torch.ones(1, batches), products.reshape(batches, m * n)).reshape(m, n)


def _batches(rows: int) -> int:
    """Into how many equal batches to cut a sum over `rows`: the most that leave `SUMMED_ROWS` in each."""
    return max(count for count in range(1, max(rows // SUMMED_ROWS, 1) + 1) if rows % count == 0)

"""Operators that pick elements by position."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pocketfed.export.mil.operators.arguments import each, flags, place


def slice_by_index(
    x: Tensor,
    begin: Tensor,
    end: Tensor,
    stride: Tensor | None = None,
    begin_mask: Tensor | None = None,
    end_mask: Tensor | None = None,
    squeeze_mask: Tensor | None = None,
) -> Tensor:
    """Each axis from begin to end by stride, in NumPy's sense; a mask ignores a bound, or drops the axis."""
    picks = _picks(list(x.shape), begin, end, stride, begin_mask, end_mask, squeeze_mask)
    for axis, pick in enumerate(picks):
        x = x.index_select(axis, pick)
    return x.reshape(_left(picks, squeeze_mask))


def slice_by_size(x: Tensor, begin: Tensor, size: Tensor) -> Tensor:
    """So many elements of each axis; -1 takes all that are left."""
    for axis, (first, count) in enumerate(zip(each(begin, x.dim()), each(size, x.dim()), strict=True)):
        start = place(first, x.shape[axis])
        x = x.narrow(axis, start, x.shape[axis] - start if count == -1 else count)
    return x


def slice_update(
    x: Tensor,
    update: Tensor,
    begin: Tensor,
    end: Tensor,
    stride: Tensor | None = None,
    begin_mask: Tensor | None = None,
    end_mask: Tensor | None = None,
    squeeze_mask: Tensor | None = None,
) -> Tensor:
    """A copy in which a slice is replaced."""
    picks = _picks(list(x.shape), begin, end, stride, begin_mask, end_mask, squeeze_mask)
    if list(update.shape) != (left := _left(picks, squeeze_mask)):
        raise ValueError(f"the slice is {left}, what is to replace it {list(update.shape)}")
    result = x.clone()
    grid = torch.meshgrid(*picks, indexing="ij")
    result[grid] = update.reshape([len(pick) for pick in picks]).to(x.dtype)
    return result


def gather(
    x: Tensor, indices: Tensor, axis: Tensor | int = 0, batch_dims: Tensor | int = 0, validate_indices: Any = None
) -> Tensor:  # fmt: skip
    """Elements of one axis by position."""
    if int(batch_dims) != 0:
        raise ValueError("gather by batch is not known here")
    at = place(int(axis), x.dim())
    picked = x.index_select(at, _inside(indices, x.shape[at]).reshape(-1))
    return picked.reshape([*x.shape[:at], *indices.shape, *x.shape[at + 1 :]])


def gather_along_axis(
    x: Tensor, indices: Tensor, axis: Tensor | int = 0, validate_indices: Any = None
) -> Tensor:
    """Element by element along one axis; the others have the same sizes."""
    at = place(int(axis), x.dim())
    if indices.shape != (*x.shape[:at], *indices.shape[at : at + 1], *x.shape[at + 1 :]):
        raise ValueError(f"{list(indices.shape)} indices differ from {list(x.shape)} beside axis {at}")
    return torch.gather(x, at, _inside(indices, x.shape[at]))


def one_hot(
    indices: Tensor,
    one_hot_vector_size: Tensor,
    axis: Tensor | int = -1,
    on_value: Tensor | int = 1,
    off_value: Tensor | int = 0,
) -> Tensor:
    """A vector for each index, with one value at it and another elsewhere."""
    size = int(one_hot_vector_size)
    hot = torch.nn.functional.one_hot(_inside(indices, size), size).bool()
    values = torch.where(hot, torch.as_tensor(on_value), torch.as_tensor(off_value))
    return values.movedim(-1, int(axis))


def _inside(indices: Tensor, size: int) -> Tensor:
    """Indices as torch wants them.

    Raises:
        ValueError: one is outside. From iOS 17 on, a negative one is, and what a device would read then is undefined.
    """
    wrong = indices[(indices < 0) | (indices >= size)]
    if wrong.numel():
        raise ValueError(f"{int(wrong[0])} is out of range: there are {size}")
    return indices.long()


def _left(picks: list[Tensor], squeeze_mask: Tensor | None) -> list[int]:
    """The shape of a slice."""
    dropped = flags(squeeze_mask, len(picks))
    return [len(pick) for pick, drop in zip(picks, dropped, strict=True) if not drop]


def _picks(
    sizes: list[int],
    begin: Tensor,
    end: Tensor,
    stride: Tensor | None,
    begin_mask: Tensor | None,
    end_mask: Tensor | None,
    squeeze_mask: Tensor | None,
) -> list[Tensor]:
    """The positions that are kept of each axis."""
    rank = len(sizes)
    first, last, steps = each(begin, rank), each(end, rank), each(stride, rank, 1)
    open_first, open_last, single = (flags(mask, rank) for mask in (begin_mask, end_mask, squeeze_mask))
    picks = []
    for axis, size in enumerate(sizes):
        if single[axis]:
            picks.append(torch.tensor([place(first[axis], size)]))
            continue
        wanted = slice(
            None if open_first[axis] else first[axis],
            None if open_last[axis] else last[axis],
            steps[axis],
        )
        picks.append(torch.tensor(range(size)[wanted], dtype=torch.long))
    return picks


OPERATORS: dict[str, Callable[..., Any]] = {
    "gather": gather,
    "gather_along_axis": gather_along_axis,
    "one_hot": one_hot,
    "slice_by_index": slice_by_index,
    "slice_by_size": slice_by_size,
    "slice_update": slice_update,
}

"""Operators that move elements, or say how many there are."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from pocketfed.export.mil.operators.arguments import (
    each,
    integers,
    integers_or,
    last_first,
    padding,
    place,
    places,
    several,
)


def reshape(x: Tensor, shape: Tensor) -> Tensor:
    """Another shape; -1 is what is left, and 0 keeps the size of the axis as far from the last one, or is 1 beyond them."""
    sizes = integers(shape)
    kept = ([1] * len(sizes) + list(x.shape))[x.dim() :]
    return x.reshape([own if size == 0 else size for own, size in zip(kept, sizes, strict=True)])


def transpose(x: Tensor, perm: Tensor) -> Tensor:
    """The axes in another order."""
    return x.permute(integers(perm)).contiguous()


def expand_dims(x: Tensor, axes: Tensor) -> Tensor:
    """New axes of size one, at these places of the result."""
    wanted = integers(axes)
    for axis in places(wanted, x.dim() + len(wanted)):
        x = x.unsqueeze(axis)
    return x


def squeeze(x: Tensor, axes: Tensor | None = None) -> Tensor:
    """Without these axes of size one, or without all of them."""
    ones = [i for i, size in enumerate(x.shape) if size == 1]
    for axis in reversed(places(integers_or(axes, ones), x.dim())):
        x = x.squeeze(axis)
    return x


def concat(values: Any, axis: Tensor, interleave: Tensor | bool = False) -> Tensor:
    """One after the other, or taking turns."""
    parts, at = [part.reshape(1) if part.dim() == 0 else part for part in several(values)], int(axis)
    if not bool(interleave):
        return torch.cat(parts, at)
    at = place(at, parts[0].dim())
    return torch.stack(parts, at + 1).flatten(at, at + 1)


def stack(values: Any, axis: Tensor) -> Tensor:
    """Along a new axis."""
    return torch.stack(several(values), int(axis))


def split(
    x: Tensor, axis: Tensor, num_splits: Tensor | None = None, split_sizes: Tensor | None = None
) -> tuple[Tensor, ...]:
    """In pieces of given sizes, or in so many equal ones."""
    at = int(axis)
    if split_sizes is not None:
        return torch.split(x, integers(split_sizes), at)
    count = 0 if num_splits is None else int(num_splits)
    if count < 1 or x.shape[at] % count:
        raise ValueError(f"an axis of {x.shape[at]} cannot be split into {count} equal parts")
    return torch.split(x, x.shape[at] // count, at)


def pad(x: Tensor, pad: Tensor, mode: str = "constant", constant_val: Tensor | float = 0.0) -> Tensor:
    """More elements before and after; the amounts are for the last axes."""
    amounts = last_first(padding(pad, 2 * (pad.numel() // 2)))
    if mode == "constant":
        return functional.pad(x, amounts, value=float(constant_val))
    # torch pads by reflection over at most the last three axes, and wants one or two in front of them.
    while len(amounts) > 2 and amounts[-2:] == [0, 0]:
        amounts = amounts[:-2]
    kind = {"reflect": "reflect", "replicate": "replicate"}[mode]
    axes = len(amounts) // 2
    for axis in range(axes):
        if max(amounts[2 * axis : 2 * axis + 2]) > (size := x.shape[-1 - axis]):
            raise ValueError(f"an axis of {size} cannot be padded by more than itself")
    flat = x.reshape(-1, *x.shape[x.dim() - axes - 1 :]) if x.dim() > axes else x.reshape(1, 1, *x.shape)
    grown = functional.pad(flat, amounts, mode=kind)
    return grown.reshape(*x.shape[: x.dim() - axes], *grown.shape[grown.dim() - axes :])


def tile(x: Tensor, reps: Tensor) -> Tensor:
    """Repeated along each axis."""
    times = each(reps, x.dim())
    if min(times, default=1) < 1:
        raise ValueError(f"nothing can be repeated {times} times")
    return x.repeat(times)


def reverse(x: Tensor, axes: Tensor | None = None) -> Tensor:
    """Back to front."""
    return x.flip(integers_or(axes, list(range(x.dim()))))


def shape(x: Tensor) -> Tensor:
    """Its sizes."""
    return torch.tensor(list(x.shape), dtype=torch.int32)


def fill(shape: Tensor, value: Tensor | float = 0.0) -> Tensor:
    """One value everywhere."""
    return torch.full(integers(shape), value.item() if isinstance(value, Tensor) else value)


def range_1d(start: Tensor, end: Tensor, step: Tensor) -> Tensor:
    """Numbers at equal distances."""
    return torch.arange(start.item(), end.item(), step.item())


def resize_bilinear(
    x: Tensor, target_size_height: Tensor, target_size_width: Tensor, sampling_mode: str = "DEFAULT"
) -> Tensor:
    """Another height and width, by linear interpolation."""
    aligned = {"STRICT_ALIGN_CORNERS": True, "ALIGN_CORNERS": True, "UNALIGN_CORNERS": False}
    if sampling_mode not in aligned:
        raise ValueError(f"sampling mode {sampling_mode} is not known here")
    size = [int(target_size_height), int(target_size_width)]
    return functional.interpolate(x, size=size, mode="bilinear", align_corners=aligned[sampling_mode])


OPERATORS: dict[str, Callable[..., Any]] = {
    "concat": concat,
    "expand_dims": expand_dims,
    "fill": fill,
    "pad": pad,
    "range_1d": range_1d,
    "reshape": reshape,
    "resize_bilinear": resize_bilinear,
    "reverse": reverse,
    "shape": shape,
    "split": split,
    "squeeze": squeeze,
    "stack": stack,
    "tile": tile,
    "transpose": transpose,
}

"""Rules for moves of memory: all of them become reshapes, permutes, slices, cats and pads.

A broadcast stays a broadcast (`aten.expand`) as long as it can: elementwise operators look through it.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx
from torch._ops import OpOverload

from pocketfed.core.errors import ExportError
from pocketfed.export.lowering.graph.builder import Argument, Builder, shape
from pocketfed.export.lowering.graph.elementwise import as_float

aten = torch.ops.aten

MAX_CONCATENATED = 5  # more tensors in one cat make XNNPACK copy the first ones again and again


def _same(builder: Builder, x: fx.Node, *_: Argument, **__: Argument) -> fx.Node:
    return x


def _reshape(builder: Builder, x: fx.Node, sizes: Sequence[int], *_: Argument) -> fx.Node:
    count = x.meta["val"].numel()
    known = 1
    for size in sizes:
        known *= size if size != -1 else 1
    full = [count // known if size == -1 else size for size in sizes]
    if x.target is aten.expand.default and x.args[0].meta["val"].numel() == 1:  # type: ignore[union-attr]
        single = builder.reshape(x.args[0], [])  # type: ignore[arg-type]
        return _expand(builder, single, full)
    return builder.reshape(x, full)


def _flatten(builder: Builder, x: fx.Node, start: int = 0, end: int = -1) -> fx.Node:
    sizes = shape(x)
    first, last = start % len(sizes), end % len(sizes)
    return _reshape(builder, x, [*sizes[:first], -1, *sizes[last + 1 :]])


def _permute(builder: Builder, x: fx.Node, order: Sequence[int]) -> fx.Node:
    order = [axis % len(order) for axis in order]
    if x.target is aten.expand.default:
        source = _source_of_rank(builder, x)
        return _expand(builder, builder.permute(source, order), [shape(x)[axis] for axis in order])
    return builder.permute(x, order)


def _source_of_rank(builder: Builder, expanded: fx.Node) -> fx.Node:
    source: fx.Node = expanded.args[0]  # type: ignore[assignment]
    sizes = shape(source)
    return builder.reshape(source, [1] * (len(shape(expanded)) - len(sizes)) + sizes)


def _transpose(builder: Builder, x: fx.Node, first: int, second: int) -> fx.Node:
    order = list(range(len(shape(x))))
    order[first], order[second] = order[second], order[first]
    return _permute(builder, x, order)


def _t(builder: Builder, x: fx.Node) -> fx.Node:
    return _permute(builder, x, list(reversed(range(len(shape(x))))))


def _unsqueeze(builder: Builder, x: fx.Node, dim: int) -> fx.Node:
    sizes = shape(x)
    axis = dim % (len(sizes) + 1)
    return _reshape(builder, x, [*sizes[:axis], 1, *sizes[axis:]])


def _squeeze(builder: Builder, x: fx.Node, dims: int | Sequence[int] | None = None) -> fx.Node:
    sizes = shape(x)
    if dims is None:
        axes = set(range(len(sizes)))
    else:
        axes = {dim % max(len(sizes), 1) for dim in ([dims] if isinstance(dims, int) else dims)}
    return _reshape(builder, x, [size for axis, size in enumerate(sizes) if not (axis in axes and size == 1)])


def _slice(
    builder: Builder,
    x: fx.Node,
    dim: int = 0,
    start: int | None = None,
    end: int | None = None,
    step: int = 1,
) -> fx.Node:
    sizes = shape(x)
    axis = dim % len(sizes)
    first, last, _ = slice(start, end).indices(sizes[axis])
    if step == 1:
        whole = first == 0 and last == sizes[axis]
        return x if whole else builder.call(aten.slice.Tensor, x, axis, first, last)
    count = -(-(last - first) // step)
    missing = max(0, first + count * step - sizes[axis])
    amounts = [0] * (2 * (len(sizes) - 1 - axis)) + [0, missing]
    padded = builder.call(aten.constant_pad_nd.default, x, amounts) if missing else x
    covered = _slice(builder, padded, axis, first, first + count * step)
    split = builder.reshape(covered, [*sizes[:axis], count, step, *sizes[axis + 1 :]])
    return builder.reshape(_slice(builder, split, axis + 1, 0, 1), [*sizes[:axis], count, *sizes[axis + 1 :]])


def _select(builder: Builder, x: fx.Node, dim: int, index: int) -> fx.Node:
    sizes = shape(x)
    axis, position = dim % len(sizes), index % sizes[dim]
    picked = _slice(builder, x, axis, position, position + 1)
    return builder.reshape(picked, [*sizes[:axis], *sizes[axis + 1 :]])


def _split(builder: Builder, x: fx.Node, sizes: int | Sequence[int], dim: int = 0) -> tuple[fx.Node, ...]:
    length = shape(x)[dim]
    if isinstance(sizes, int):
        sizes = [min(sizes, length - first) for first in range(0, length, sizes)]
    starts = [sum(sizes[:place]) for place in range(len(sizes))]
    return tuple(
        _slice(builder, x, dim, start, start + size) for start, size in zip(starts, sizes, strict=True)
    )


def _unbind(builder: Builder, x: fx.Node, dim: int = 0) -> tuple[fx.Node, ...]:
    return tuple(_select(builder, x, dim, index) for index in range(shape(x)[dim]))


def _cat(builder: Builder, tensors: Sequence[fx.Node], dim: int = 0) -> fx.Node:
    parts: list[fx.Node] = [as_float(builder, part) for part in tensors if part.meta["val"].numel()]
    if len(set(parts)) == 1:
        return _repeat(builder, parts[0], dim, len(parts))
    while len(parts) > MAX_CONCATENATED:
        parts = [
            _cat(builder, parts[first : first + MAX_CONCATENATED], dim)
            for first in range(0, len(parts), MAX_CONCATENATED)
        ]
    return builder.call(aten.cat.default, parts, dim % len(shape(parts[0])))


def _repeat(builder: Builder, x: fx.Node, dim: int, times: int) -> fx.Node:
    """x that many times after itself; XNNPACK's cat wants different tensors."""
    sizes = shape(x)
    axis = dim % len(sizes)
    split = builder.reshape(x, [*sizes[:axis], 1, *sizes[axis:]])
    repeated = _expand(builder, split, [*sizes[:axis], times, *sizes[axis:]])
    return _reshape(builder, repeated, [*sizes[:axis], times * sizes[axis], *sizes[axis + 1 :]])


def _stack(builder: Builder, tensors: Sequence[fx.Node], dim: int = 0) -> fx.Node:
    return _cat(builder, [_unsqueeze(builder, part, dim) for part in tensors], dim)


def _pad(builder: Builder, x: fx.Node, amounts: Sequence[int], value: float = 0.0) -> fx.Node:
    for place, amount in enumerate(amounts):
        if amount < 0:
            axis = len(shape(x)) - 1 - place // 2
            size = shape(x)[axis]
            x = (
                _slice(builder, x, axis, -amount)
                if place % 2 == 0
                else _slice(builder, x, axis, 0, size + amount)
            )
    kept = [max(amount, 0) for amount in amounts]
    return builder.call(aten.constant_pad_nd.default, x, kept, float(value)) if any(kept) else x


def _expand(builder: Builder, x: fx.Node, sizes: Sequence[int], **_: Argument) -> fx.Node:
    offset = len(sizes) - len(shape(x))
    full = [shape(x)[axis - offset] if size == -1 else size for axis, size in enumerate(sizes)]
    if x.target is aten.expand.default:
        return _expand(builder, x.args[0], full)  # type: ignore[arg-type]
    return x if full == shape(x) else builder.call(aten.expand.default, x, full)


def _zeros_like(builder: Builder, x: fx.Node, *_: Argument, **__: Argument) -> fx.Node:
    return _full_like(builder, x, 0.0)


def ones_like(builder: Builder, x: fx.Node, *_: Argument, **__: Argument) -> fx.Node:
    """Ones in the sizes of x."""
    return _full_like(builder, x, 1.0)


def _full_like(builder: Builder, x: fx.Node, number: float, *_: Argument, **__: Argument) -> fx.Node:
    return _new_full(builder, x, shape(x), number)


def _new_full(builder: Builder, x: fx.Node, sizes: Sequence[int], number: float, **_: Argument) -> fx.Node:
    return _expand(builder, builder.constant(torch.tensor(float(number))), sizes)


def _copy(builder: Builder, x: fx.Node, source: fx.Node, *_: Argument) -> fx.Node:
    """What x holds after `source` was written into it."""
    return _expand(builder, source, shape(x))


def _as_strided(
    builder: Builder, x: fx.Node, sizes: Sequence[int], strides: Sequence[int], offset: int = 0
) -> fx.Node:
    """Autograd asks for this where a reshape is meant; anything else has no meaning without memory."""
    if math.prod(sizes) == x.meta["val"].numel() and _contiguous(sizes, strides) and not offset:
        return _reshape(builder, x, sizes)
    raise ExportError(
        f"aten.as_strided from {shape(x)} to {list(sizes)} with strides {list(strides)} cannot be lowered; "
        "use reshape, permute and slices."
    )


def _as_strided_scatter(
    builder: Builder,
    x: fx.Node,
    source: fx.Node,
    sizes: Sequence[int],
    strides: Sequence[int],
    offset: int = 0,
) -> fx.Node:
    """What x holds after all of it was written through a reshaped view."""
    _as_strided(builder, x, sizes, strides, offset)
    return _reshape(builder, source, shape(x))


def _contiguous(sizes: Sequence[int], strides: Sequence[int]) -> bool:
    """Whether the strides, where they matter, are those of a tensor without gaps in the order of its axes."""
    step = 1
    for size, stride in reversed(list(zip(sizes, strides, strict=True))):
        if size != 1 and stride != step:
            return False
        step *= size
    return True


MOVES: dict[OpOverload, Callable[..., Any]] = {
    aten.alias.default: _same,
    aten.detach.default: _same,
    aten.detach_.default: _same,
    aten.clone.default: _same,
    aten.copy.default: _copy,
    aten.as_strided.default: _as_strided,
    aten.as_strided_scatter.default: _as_strided_scatter,
    aten.contiguous.default: _same,
    aten.lift_fresh.default: _same,
    aten.lift_fresh_copy.default: _same,
    aten.view.default: _reshape,
    aten._unsafe_view.default: _reshape,
    aten.reshape.default: _reshape,
    aten.flatten.using_ints: _flatten,
    aten.permute.default: _permute,
    aten.transpose.int: _transpose,
    aten.t.default: _t,
    aten.unsqueeze.default: _unsqueeze,
    aten.squeeze.default: _squeeze,
    aten.squeeze.dim: _squeeze,
    aten.squeeze.dims: _squeeze,
    aten.slice.Tensor: _slice,
    aten.select.int: _select,
    aten.split.Tensor: _split,
    aten.split_with_sizes.default: _split,
    aten.unbind.int: _unbind,
    aten.cat.default: _cat,
    aten.stack.default: _stack,
    aten.constant_pad_nd.default: _pad,
    aten.expand.default: _expand,
    aten.zeros_like.default: _zeros_like,
    aten.ones_like.default: ones_like,
    aten.full_like.default: _full_like,
    aten.new_full.default: _new_full,
}

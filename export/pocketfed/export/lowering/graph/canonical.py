"""The first rewrite: many ATen operators become the few that the later stages and XNNPACK know.

Constants are computed now, every move of memory becomes a reshape, permute, slice, cat or pad, every number
a float, every comparison a float mask, and every broadcast waits until something needs it spelled out.
"""

import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch._ops import OpOverload

from pocketfed.core.errors import ExportError
from pocketfed.export.lowering.graph.builder import Argument, Builder, shape, tensor_attribute
from pocketfed.export.lowering.graph.elementwise import (
    BINARY,
    UNARY,
    as_float,
    elementwise,
    greater,
    negate,
    select,
)

aten = torch.ops.aten

Rule = Callable[..., Any]

MAX_CONCATENATED = 5  # more tensors in one cat make XNNPACK copy the first ones again and again


def canonicalise(module: fx.GraphModule, share: bool) -> fx.GraphModule:
    """The same function in fewer kinds of operators. `share`: compute equal expressions once."""
    builder = Builder(share)
    known: dict[fx.Node, Any] = {}
    for node in module.graph.nodes:
        args, kwargs = fx.map_arg((node.args, node.kwargs), known.__getitem__)
        if node.op == "placeholder":
            known[node] = builder.placeholder(node.name, node.meta["val"])
        elif node.op == "get_attr":
            known[node] = builder.constant(tensor_attribute(module, str(node.target)))
        elif node.op == "output":
            return builder.finish(tuple(args[0]))
        else:
            known[node] = _rewrite(builder, node.target, args, kwargs)
            _remember_source(known[node], node)
    raise AssertionError("a graph ends with its output")


def _rewrite(builder: Builder, target: Any, args: Any, kwargs: Any) -> Any:
    if target is operator.getitem:
        return args[0][args[1]]
    if torch.Tag.nondeterministic_seeded in target.tags:
        raise ExportError(
            f"{target} draws random numbers inside the step, which a phone would repeat every time; "
            "pass random numbers in as an input."
        )
    if target._schema.is_mutable:
        raise ExportError(f"{target} writes in place; use its variant without the underscore.")
    if target is not aten.expand.default:
        folded = _fold(builder, target, args, kwargs)
        if folded is not None:
            return folded
    if target in _RULES:
        return _RULES[target](builder, *args, **kwargs)
    if target in UNARY or target in BINARY:
        return elementwise(builder, target, *args, **kwargs)
    return builder.call(target, *args, **kwargs)


def _fold(builder: Builder, target: OpOverload, args: Any, kwargs: Any) -> Any:
    """The operator's result as a constant if all its tensors are constants, else None."""
    missing = False

    def value(node: fx.Node) -> Tensor | None:
        nonlocal missing
        constant = builder.value(node)
        missing = missing or constant is None
        return constant

    values, named = fx.map_arg((args, kwargs), value)
    if missing:
        return None
    result = target(*values, **{name: item for name, item in named.items() if name != "device"})
    return builder.constant(result) if isinstance(result, Tensor) else tuple(map(builder.constant, result))


def _remember_source(result: Any, node: fx.Node) -> None:
    """Keeps the line of Python that asked for an operator, for error messages."""
    if isinstance(result, fx.Node) and "stack_trace" in node.meta:
        result.meta.setdefault("stack_trace", node.meta["stack_trace"])


# Moves of memory.


def _same(builder: Builder, x: fx.Node, *_: Argument, **__: Argument) -> fx.Node:
    return x


def _reshape(builder: Builder, x: fx.Node, sizes: Sequence[int], *_: Argument) -> fx.Node:
    count = x.meta["val"].numel()
    known = 1
    for size in sizes:
        known *= size if size != -1 else 1
    full = [count // known if size == -1 else size for size in sizes]
    if x.target is aten.expand.default and x.args[0].meta["val"].numel() == 1:  # type: ignore[union-attr]
        return _expand(builder, x.args[0], full)  # type: ignore[arg-type]
    return builder.reshape(x, full)


def _flatten(builder: Builder, x: fx.Node, start: int = 0, end: int = -1) -> fx.Node:
    sizes = shape(x)
    first, last = start % len(sizes), end % len(sizes)
    return builder.reshape(x, [*sizes[:first], -1, *sizes[last + 1 :]])


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


def _filled_like(number: float) -> Rule:
    def rule(builder: Builder, x: fx.Node, *_: Argument, **__: Argument) -> fx.Node:
        return _expand(builder, builder.constant(torch.tensor(number)), shape(x))

    return rule


def _full_like(builder: Builder, x: fx.Node, number: float, *_: Argument, **__: Argument) -> fx.Node:
    return _filled_like(float(number))(builder, x)


def _new_full(builder: Builder, x: fx.Node, sizes: Sequence[int], number: float, **_: Argument) -> fx.Node:
    return _expand(builder, builder.constant(torch.tensor(float(number))), sizes)


# Arithmetic.


def _with_alpha(target: OpOverload) -> Rule:
    def rule(builder: Builder, a: Argument, b: Argument, alpha: float = 1) -> fx.Node:
        scaled = b if alpha == 1 else elementwise(builder, aten.mul.Tensor, b, float(alpha))
        return elementwise(builder, target, a, scaled)

    return rule


def _rsub(builder: Builder, a: Argument, b: Argument, alpha: float = 1) -> fx.Node:
    return elementwise(builder, aten.sub.Tensor, b, elementwise(builder, aten.mul.Tensor, a, float(alpha)))


def _div(builder: Builder, a: Argument, b: Argument) -> fx.Node:
    if isinstance(b, (int, float)):
        return elementwise(builder, aten.mul.Tensor, a, 1.0 / b)
    return elementwise(builder, aten.div.Tensor, a, b)


def _reciprocal(builder: Builder, x: fx.Node) -> fx.Node:
    return elementwise(builder, aten.div.Tensor, 1.0, x)


def _pow(builder: Builder, x: fx.Node, exponent: float) -> fx.Node:
    if exponent < 0:
        whole = elementwise(builder, aten.rsqrt.default, x) if exponent == -0.5 else None
        return whole or _reciprocal(builder, _pow(builder, x, -exponent))
    if exponent == 0.5:
        return elementwise(builder, aten.sqrt.default, x)
    if exponent == int(exponent) and 1 <= exponent <= 8:
        power = x
        for _ in range(int(exponent) - 1):
            power = elementwise(builder, aten.mul.Tensor, power, x)
        return power
    return builder.call(aten.pow.Tensor_Scalar, x, exponent)


def _square(builder: Builder, x: fx.Node) -> fx.Node:
    return elementwise(builder, aten.mul.Tensor, x, x)


def _clamp(builder: Builder, x: fx.Node, low: float | None = None, high: float | None = None) -> fx.Node:
    if low == 0 and high is None:
        return elementwise(builder, aten.relu.default, x)
    if low is not None and high is not None:
        return elementwise(builder, aten.hardtanh.default, x, float(low), float(high))
    bounds = [None if bound is None else float(bound) for bound in (low, high)]
    return elementwise(builder, aten.clamp.default, x, *bounds)


def _clamp_max(builder: Builder, x: fx.Node, high: float) -> fx.Node:
    return _clamp(builder, x, None, high)


def _to_copy(builder: Builder, x: fx.Node, dtype: torch.dtype | None = None, **_: Argument) -> fx.Node:
    if dtype is None or x.meta["val"].dtype == dtype or dtype == torch.bool:
        return x
    return elementwise(builder, aten._to_copy.default, x, dtype=dtype)


def _addmm(
    builder: Builder, bias: fx.Node, a: fx.Node, b: fx.Node, beta: float = 1, alpha: float = 1
) -> fx.Node:
    product = elementwise(builder, aten.mul.Tensor, _mm(builder, a, b), float(alpha))
    return elementwise(
        builder, aten.add.Tensor, product, elementwise(builder, aten.mul.Tensor, bias, float(beta))
    )


def _mm(builder: Builder, a: fx.Node, b: fx.Node) -> fx.Node:
    return builder.call(aten.mm.default, as_float(builder, a), as_float(builder, b))


def _bmm(builder: Builder, a: fx.Node, b: fx.Node) -> fx.Node:
    if shape(a)[0] > 1:
        return builder.call(aten.bmm.default, as_float(builder, a), as_float(builder, b))
    product = _mm(builder, builder.reshape(a, shape(a)[1:]), builder.reshape(b, shape(b)[1:]))
    return builder.reshape(product, [1, *shape(product)])


# Comparisons and masks.


def _gt(builder: Builder, a: Argument, b: Argument) -> fx.Node:
    return greater(builder, a, b)


def _lt(builder: Builder, a: Argument, b: Argument) -> fx.Node:
    return greater(builder, b, a)


def _ge(builder: Builder, a: Argument, b: Argument) -> fx.Node:
    return negate(builder, greater(builder, b, a))


def _le(builder: Builder, a: Argument, b: Argument) -> fx.Node:
    return negate(builder, greater(builder, a, b))


def _eq(builder: Builder, a: Argument, b: Argument) -> fx.Node:
    return elementwise(builder, aten.mul.Tensor, _ge(builder, a, b), _le(builder, a, b))


def _ne(builder: Builder, a: Argument, b: Argument) -> fx.Node:
    return negate(builder, _eq(builder, a, b))


def _and(builder: Builder, a: fx.Node, b: fx.Node) -> fx.Node:
    return elementwise(builder, aten.mul.Tensor, a, b)


def _or(builder: Builder, a: fx.Node, b: fx.Node) -> fx.Node:
    return elementwise(builder, aten.maximum.default, a, b)


def _not(builder: Builder, mask: fx.Node) -> fx.Node:
    return negate(builder, mask)


def _masked_fill(builder: Builder, x: fx.Node, mask: fx.Node, value: Argument) -> fx.Node:
    if isinstance(value, fx.Node) and (constant := builder.value(value)) is not None:
        value = float(constant)
    if isinstance(value, (int, float)):
        limit = torch.finfo(torch.float32).max
        value = min(max(float(value), -limit), limit)
    return select(builder, mask, value, x)


_RULES: dict[OpOverload, Rule] = {
    aten.alias.default: _same,
    aten.detach.default: _same,
    aten.clone.default: _same,
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
    aten.zeros_like.default: _filled_like(0.0),
    aten.ones_like.default: _filled_like(1.0),
    aten.full_like.default: _full_like,
    aten.new_full.default: _new_full,
    aten.add.Tensor: _with_alpha(aten.add.Tensor),
    aten.add.Scalar: _with_alpha(aten.add.Tensor),
    aten.sub.Tensor: _with_alpha(aten.sub.Tensor),
    aten.sub.Scalar: _with_alpha(aten.sub.Tensor),
    aten.rsub.Scalar: _rsub,
    aten.rsub.Tensor: _rsub,
    aten.mul.Scalar: _with_alpha(aten.mul.Tensor),
    aten.div.Tensor: _div,
    aten.div.Scalar: _div,
    aten.reciprocal.default: _reciprocal,
    aten.pow.Tensor_Scalar: _pow,
    aten.square.default: _square,
    aten.clamp.default: _clamp,
    aten.clamp_min.default: _clamp,
    aten.clamp_max.default: _clamp_max,
    aten._to_copy.default: _to_copy,
    aten.addmm.default: _addmm,
    aten.mm.default: _mm,
    aten.bmm.default: _bmm,
    aten.gt.Scalar: _gt,
    aten.gt.Tensor: _gt,
    aten.lt.Scalar: _lt,
    aten.lt.Tensor: _lt,
    aten.ge.Scalar: _ge,
    aten.ge.Tensor: _ge,
    aten.le.Scalar: _le,
    aten.le.Tensor: _le,
    aten.eq.Scalar: _eq,
    aten.eq.Tensor: _eq,
    aten.ne.Scalar: _ne,
    aten.ne.Tensor: _ne,
    aten.logical_and.default: _and,
    aten.bitwise_and.Tensor: _and,
    aten.logical_or.default: _or,
    aten.bitwise_or.Tensor: _or,
    aten.logical_not.default: _not,
    aten.bitwise_not.default: _not,
    aten.where.self: select,
    aten.masked_fill.Scalar: _masked_fill,
    aten.masked_fill.Tensor: _masked_fill,
}

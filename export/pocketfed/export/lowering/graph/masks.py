"""Rules for comparisons and what follows from them: a truth value is a float, one or zero."""

from collections.abc import Callable
from typing import Any

import torch
from torch import fx
from torch._ops import OpOverload

from pocketfed.export.lowering.graph.builder import Argument, Builder
from pocketfed.export.lowering.graph.elementwise import as_float, constant_is, elementwise
from pocketfed.export.lowering.operators.activations import STEEP

aten = torch.ops.aten


def _gt(builder: Builder, a: Argument, b: Argument) -> fx.Node:
    """1.0 where a > b, else 0.0."""
    difference = a if _is_zero(b) else elementwise(builder, aten.sub.Tensor, a, b)
    steep = elementwise(builder, aten.mul.Tensor, difference, STEEP)
    return elementwise(builder, aten.hardtanh.default, steep, 0.0, 1.0)


def _not(builder: Builder, mask: fx.Node) -> fx.Node:
    """1 - mask."""
    return elementwise(builder, aten.sub.Tensor, 1.0, mask)


def _select(builder: Builder, mask: Argument, a: Argument, b: Argument) -> fx.Node:
    """a where the mask is one, b where it is zero; both must be finite."""
    mask = as_float(builder, mask)
    if _is_zero(b) or (isinstance(b, fx.Node) and constant_is(builder, b, 0.0)):
        return elementwise(builder, aten.mul.Tensor, a, mask)
    rest = elementwise(builder, aten.mul.Tensor, b, _not(builder, mask))
    if _is_zero(a) or (isinstance(a, fx.Node) and constant_is(builder, a, 0.0)):
        return rest
    return elementwise(builder, aten.add.Tensor, elementwise(builder, aten.mul.Tensor, a, mask), rest)


def _lt(builder: Builder, a: Argument, b: Argument) -> fx.Node:
    return _gt(builder, b, a)


def _ge(builder: Builder, a: Argument, b: Argument) -> fx.Node:
    return _not(builder, _gt(builder, b, a))


def _le(builder: Builder, a: Argument, b: Argument) -> fx.Node:
    return _not(builder, _gt(builder, a, b))


def _eq(builder: Builder, a: Argument, b: Argument) -> fx.Node:
    return elementwise(builder, aten.mul.Tensor, _ge(builder, a, b), _le(builder, a, b))


def _ne(builder: Builder, a: Argument, b: Argument) -> fx.Node:
    return _not(builder, _eq(builder, a, b))


def _and(builder: Builder, a: fx.Node, b: fx.Node) -> fx.Node:
    return elementwise(builder, aten.mul.Tensor, a, b)


def _or(builder: Builder, a: fx.Node, b: fx.Node) -> fx.Node:
    return elementwise(builder, aten.maximum.default, a, b)


def _masked_fill(builder: Builder, x: fx.Node, mask: fx.Node, value: Argument) -> fx.Node:
    if isinstance(value, fx.Node) and (constant := builder.value(value)) is not None:
        value = float(constant)
    if isinstance(value, (int, float)):
        limit = torch.finfo(torch.float32).max
        value = min(max(float(value), -limit), limit)
    return _select(builder, mask, value, x)


def _is_zero(value: Argument) -> bool:
    return isinstance(value, (int, float)) and value == 0


MASKS: dict[OpOverload, Callable[..., Any]] = {
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
    aten.where.self: _select,
    aten.masked_fill.Scalar: _masked_fill,
    aten.masked_fill.Tensor: _masked_fill,
}

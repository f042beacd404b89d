"""Emitting elementwise operators: numbers as floats, broadcasts left to the operator."""

from collections.abc import Sequence

import torch
from torch import fx
from torch._ops import OpOverload

from pocketfed.export.lowering.graph.builder import Argument, Builder, shape

aten = torch.ops.aten

UNARY = frozenset(
    {
        aten.relu.default,
        aten.abs.default,
        aten.neg.default,
        aten.exp.default,
        aten.log.default,
        aten.sqrt.default,
        aten.rsqrt.default,
        aten.sigmoid.default,
        aten.tanh.default,
        aten.sin.default,
        aten.cos.default,
        aten.floor.default,
        aten.ceil.default,
        aten.hardtanh.default,
        aten.clamp.default,
        aten.hardswish.default,
        aten.leaky_relu.default,
        aten.elu.default,
        aten._to_copy.default,
    }
)

BINARY = frozenset(
    {
        aten.add.Tensor,
        aten.sub.Tensor,
        aten.mul.Tensor,
        aten.div.Tensor,
        aten.maximum.default,
        aten.minimum.default,
    }
)


def elementwise(builder: Builder, target: OpOverload, *args: Argument, **kwargs: Argument) -> fx.Node:
    """An elementwise operator, applied before its operands are expanded wherever that gives the same.

    Constant operands are folded, and products with one and sums with zero are left out.
    """
    operands = [as_float(builder, _source(arg)) for arg in args]
    sizes = broadcast([shape(arg) for arg in args if isinstance(arg, fx.Node)])
    if target in BINARY and not isinstance(operands[0], fx.Node):
        operands[0] = builder.constant(torch.tensor(operands[0]))
    values = [builder.value(operand) if isinstance(operand, fx.Node) else operand for operand in operands]
    nodes = [operand for operand in operands if isinstance(operand, fx.Node)]
    if all(value is not None for value, operand in zip(values, operands, strict=True) if operand in nodes):
        result = builder.constant(target(*values, **kwargs))
    else:
        neutral = _neutral(builder, target, operands)
        result = builder.call(target, *operands, **kwargs) if neutral is None else neutral
    return result if shape(result) == sizes else builder.call(aten.expand.default, result, sizes)


def as_float(builder: Builder, value: Argument) -> Argument:
    """Numbers and constants of other types as float32; nodes that are computed are left alone."""
    if isinstance(value, bool):
        return value
    if isinstance(value, int):
        return float(value)
    if isinstance(value, fx.Node):
        constant = builder.value(value)
        if constant is not None and constant.dtype != torch.float32:
            return builder.constant(constant.to(torch.float32))
    return value


def broadcast(shapes: Sequence[Sequence[int]]) -> list[int]:
    """The sizes that operands of these sizes broadcast to."""
    rank = max(len(sizes) for sizes in shapes)
    aligned = [[1] * (rank - len(sizes)) + list(sizes) for sizes in shapes]
    return [max(sizes, key=lambda size: size != 1) for sizes in zip(*aligned, strict=True)]


def _source(value: Argument) -> Argument:
    """What an expanded tensor was expanded from."""
    if isinstance(value, fx.Node) and value.target is aten.expand.default:
        return value.args[0]
    return value


def _neutral(builder: Builder, target: OpOverload, operands: Sequence[Argument]) -> fx.Node | None:
    """The other operand, if one is the neutral element of a sum or a product."""
    neutral = {aten.mul.Tensor: 1.0, aten.div.Tensor: 1.0, aten.add.Tensor: 0.0, aten.sub.Tensor: 0.0}.get(
        target
    )
    if neutral is None:
        return None
    places = (1,) if target in (aten.div.Tensor, aten.sub.Tensor) else (1, 0)
    for place in places:
        operand, other = operands[place], operands[1 - place]
        if isinstance(other, fx.Node) and other.meta["val"].dtype == torch.float32:
            if operand == neutral and not isinstance(operand, fx.Node):
                return other
            if isinstance(operand, fx.Node) and constant_is(builder, operand, neutral):
                return other
    return None


def constant_is(builder: Builder, node: fx.Node, number: float) -> bool:
    """Whether a node is a constant of this number throughout."""
    value = builder.value(_source(node))
    return value is not None and bool((value == number).all())

"""Rules for arithmetic and products."""

from collections.abc import Callable
from functools import partial, reduce
from typing import Any

import torch
from torch import fx
from torch._ops import OpOverload

from pocketfed.export.lowering.graph.builder import Argument, Builder, shape
from pocketfed.export.lowering.graph.elementwise import as_float, elementwise
from pocketfed.export.lowering.graph.moves import ones_like

aten = torch.ops.aten

Rule = Callable[..., Any]

MAX_POWER = 8  # higher ones are not spelled out as products


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
    """Powers that are multiples of one half, as products, roots and reciprocals."""
    if exponent != int(2 * exponent) / 2 or abs(exponent) > MAX_POWER:
        return builder.call(aten.pow.Tensor_Scalar, x, exponent)
    if exponent == -0.5:
        return elementwise(builder, aten.rsqrt.default, x)
    if exponent < 0:
        return _reciprocal(builder, _pow(builder, x, -exponent))
    if exponent == 0:
        return ones_like(builder, x)
    factors: list[fx.Node] = [x] * int(exponent)
    if exponent != int(exponent):
        factors.append(elementwise(builder, aten.sqrt.default, x))
    return reduce(partial(elementwise, builder, aten.mul.Tensor), factors)


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


ARITHMETIC: dict[OpOverload, Rule] = {
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
}

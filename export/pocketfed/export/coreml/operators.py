"""The twin in MIL of each operator that a lowered graph has.

A rule takes MIL's builder, the node's arguments with variables in place of nodes, the name of the result, and `like`:
the node, for its shape.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import fx
from torch._ops import OpOverload

from pocketfed.export.lowering.graph.builder import shape

aten = torch.ops.aten

Rule: TypeAlias = Callable[..., Any]

TINY = np.float32(1e-45)
"""The least number that MIL must add inside a logarithm or a root: nothing, in float32."""


def sizes_of(node: fx.Node) -> list[int]:
    """The shape of a node's result as Core ML has it: a scalar is a vector of one element."""
    return shape(node) or [1]


def _unary(operator: str) -> Rule:
    def rule(mb: Any, x: Any, *, name: str, like: fx.Node) -> Any:
        return getattr(mb, operator)(x=x, name=name)

    return rule


def _binary(operator: str) -> Rule:
    def rule(mb: Any, x: Any, y: Any, *, name: str, like: fx.Node) -> Any:
        return getattr(mb, operator)(x=x, y=y, name=name)

    return rule


def _logarithm_like(operator: str) -> Rule:
    def rule(mb: Any, x: Any, *, name: str, like: fx.Node) -> Any:
        return getattr(mb, operator)(x=x, epsilon=TINY, name=name)

    return rule


def _negated(mb: Any, x: Any, *, name: str, like: fx.Node) -> Any:
    return mb.mul(x=x, y=np.float32(-1.0), name=name)


def _clamped(mb: Any, x: Any, low: Any = None, high: Any = None, *, name: str, like: fx.Node) -> Any:
    if low is not None and high is not None:
        return mb.clip(x=x, alpha=np.float32(low), beta=np.float32(high), name=name)
    if high is None:
        return mb.maximum(x=x, y=np.float32(low), name=name)
    return mb.minimum(x=x, y=np.float32(high), name=name)


def _hardtanh(mb: Any, x: Any, low: Any = -1.0, high: Any = 1.0, *, name: str, like: fx.Node) -> Any:
    return mb.clip(x=x, alpha=np.float32(low), beta=np.float32(high), name=name)


def _leaky_relu(mb: Any, x: Any, slope: Any = 0.01, *, name: str, like: fx.Node) -> Any:
    return mb.leaky_relu(x=x, alpha=np.float32(slope), name=name)


def _elu(mb: Any, x: Any, alpha: Any = 1.0, *, name: str, like: fx.Node) -> Any:
    return mb.elu(x=x, alpha=np.float32(alpha), name=name)


def _softmax(mb: Any, x: Any, dim: int, half_to_float: bool, *, name: str, like: fx.Node) -> Any:
    return mb.softmax(x=x, axis=dim, name=name)


def _to_float(mb: Any, x: Any, *, name: str, like: fx.Node) -> Any:
    return x  # bytes come as float32 already


def _reshape(mb: Any, x: Any, sizes: Sequence[int], *, name: str, like: fx.Node) -> Any:
    return mb.reshape(x=x, shape=sizes_of(like), name=name)


def _permute(mb: Any, x: Any, order: Sequence[int], *, name: str, like: fx.Node) -> Any:
    return mb.transpose(x=x, perm=list(order), name=name)


def _slice(
    mb: Any, x: Any, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1,
    *, name: str, like: fx.Node,
) -> Any:  # fmt: skip
    axis, sizes = dim % len(x.shape), list(x.shape)
    first, last, step = slice(start, end, step).indices(sizes[axis])
    begin = [0] * len(sizes)
    begin[axis] = first
    if step == 1:
        sizes[axis] = last - first
        return mb.slice_by_size(x=x, begin=begin, size=sizes, name=name)
    ends, strides = list(sizes), [1] * len(sizes)
    ends[axis], strides[axis] = last, step
    return mb.slice_by_index(x=x, begin=begin, end=ends, stride=strides, name=name)


def _concatenated(mb: Any, parts: Sequence[Any], dim: int = 0, *, name: str, like: fx.Node) -> Any:
    return mb.concat(values=list(parts), axis=dim, name=name)


def _padded(mb: Any, x: Any, amounts: Sequence[int], value: Any = 0.0, *, name: str, like: fx.Node) -> Any:
    # PyTorch counts from the last axis, MIL from the first; less than nothing is cut off.
    rank = len(x.shape)
    pairs = [(0, 0)] * (rank - len(amounts) // 2) + list(zip(amounts[-2::-2], amounts[::-2], strict=True))
    if any(amount < 0 for amount in amounts):
        begin = [max(0, -before) for before, _ in pairs]
        size = [
            have + min(0, before) + min(0, after)
            for have, (before, after) in zip(x.shape, pairs, strict=True)
        ]
        x = mb.slice_by_size(x=x, begin=begin, size=size, name=f"{name}_cut")
    around = [max(0, amount) for pair in pairs for amount in pair]
    return mb.pad(x=x, pad=around, mode="constant", constant_val=np.float32(value), name=name)


def _product(mb: Any, x: Any, y: Any, *, name: str, like: fx.Node) -> Any:
    return mb.matmul(x=x, y=y, name=name)


def _linear(mb: Any, x: Any, weight: Any, bias: Any = None, *, name: str, like: fx.Node) -> Any:
    # MIL's own linear operator wants weights that never change.
    if bias is None:
        return mb.matmul(x=x, y=weight, transpose_y=True, name=name)
    return mb.add(x=mb.matmul(x=x, y=weight, transpose_y=True, name=f"{name}_product"), y=bias, name=name)


def _mean(mb: Any, x: Any, axes: Any = None, keep: bool = False, *, name: str, like: fx.Node) -> Any:
    every = list(range(len(x.shape))) if not axes else list(axes)
    kept = mb.reduce_mean(x=x, axes=every, keep_dims=True, name=f"{name}_kept")
    return mb.reshape(x=kept, shape=sizes_of(like), name=name)


RULES: Mapping[OpOverload, Rule] = {
    aten.abs.default: _unary("abs"),
    aten.ceil.default: _unary("ceil"),
    aten.cos.default: _unary("cos"),
    aten.exp.default: _unary("exp"),
    aten.floor.default: _unary("floor"),
    aten.relu.default: _unary("relu"),
    aten.sigmoid.default: _unary("sigmoid"),
    aten.sin.default: _unary("sin"),
    aten.sqrt.default: _unary("sqrt"),
    aten.tanh.default: _unary("tanh"),
    aten.log.default: _logarithm_like("log"),
    aten.rsqrt.default: _logarithm_like("rsqrt"),
    aten.neg.default: _negated,
    aten.clamp.default: _clamped,
    aten.hardtanh.default: _hardtanh,
    aten.leaky_relu.default: _leaky_relu,
    aten.elu.default: _elu,
    aten._softmax.default: _softmax,
    aten.add.Tensor: _binary("add"),
    aten.sub.Tensor: _binary("sub"),
    aten.mul.Tensor: _binary("mul"),
    aten.div.Tensor: _binary("real_div"),
    aten.maximum.default: _binary("maximum"),
    aten.minimum.default: _binary("minimum"),
    aten.mm.default: _product,
    aten.bmm.default: _product,
    aten.linear.default: _linear,
    aten.mean.dim: _mean,
    aten._to_copy.default: _to_float,
    aten.reshape.default: _reshape,
    aten.permute.default: _permute,
    aten.slice.Tensor: _slice,
    aten.cat.default: _concatenated,
    aten.constant_pad_nd.default: _padded,
}
"""By the operator of PyTorch."""

"""The second rewrite: permutations wait.

A value is kept as a stored tensor and the order in which its axes should be read. Elementwise operators,
slices, concatenations and pads work on what is stored; only an operator that depends on the order (a product,
a reshape) makes the permutation happen. Around convolutions and norms that agree on [H, W, N, C] nothing is
left of the permutations to and from [N, C, H, W].
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, fx

from pocketfed.export.lowering.graph.averages import row_weight, weighted_average
from pocketfed.export.lowering.graph.builder import Argument, Builder, shape, tensor_attribute
from pocketfed.export.lowering.graph.elementwise import BINARY, UNARY, broadcast
from pocketfed.export.lowering.options import Passes

aten = torch.ops.aten

# XNNPACK fuses these into a sum or product right before them; a reshape between would keep them apart.
FUSED = (aten.relu.default, aten.hardtanh.default)

SPATIAL_FIRST = (2, 3, 0, 1)  # of a value [N, C, H, W] that is stored as [H, W, N, C]
MIN_SPLIT = 16384  # numbers below which a second operator costs more than it saves


@dataclass(frozen=True)
class Stored:
    """A value that is `node` with its axes read in `order`: axis i of the value is axis order[i] of the node."""

    node: fx.Node
    order: tuple[int, ...]

    @property
    def shape(self) -> list[int]:
        """Sizes of the value."""
        return [shape(self.node)[axis] for axis in self.order]


def split(sizes: Sequence[int], order: Sequence[int]) -> list[tuple[int, ...]]:
    """A permutation as one or two that XNNPACK does fast: each swaps two neighbouring blocks of axes.

    Reversing three axes in one go costs it twice as much as turning the last (or first) one around all others, which
    is the transposition of a matrix, and permuting those others on their own.
    """
    moved = [axis for axis in order if sizes[axis] != 1]
    rank = {axis: place for place, axis in enumerate(sorted(moved))}
    breaks = sum(rank[after] != rank[before] + 1 for before, after in pairwise(moved))
    first, last = min(moved, default=0), max(moved, default=0)
    if breaks > 1 and moved[0] == last:
        turned = last
    elif breaks > 1 and moved[-1] == first:
        turned = first
    else:
        return [tuple(order)]
    step = (turned, *(axis for axis in (sorted(order) if turned == last else order) if axis != turned))
    return [step, tuple(step.index(axis) for axis in order)]


def defer_permutes(module: fx.GraphModule, passes: Passes) -> fx.GraphModule:
    """The same function with as few permutations, and as cheap products, as the passes allow."""
    layout = _Layout(Builder(passes.common_subexpressions), passes)
    builder = layout.builder
    known: dict[fx.Node, Stored] = {}
    for node in module.graph.nodes:
        if node.op == "placeholder":
            known[node] = _plain(builder.placeholder(node.name, node.meta["val"]))
        elif node.op == "get_attr":
            known[node] = _plain(builder.constant(tensor_attribute(module, str(node.target))))
        elif node.op == "output":
            return builder.finish(tuple(layout.settle(known[value]) for value in node.args[0]))
        else:
            args, kwargs = _lookup((node.args, node.kwargs), known)
            known[node] = layout.emit(node.target, args, kwargs)
            if "stack_trace" in node.meta:
                known[node].node.meta.setdefault("stack_trace", node.meta["stack_trace"])
    raise AssertionError("a graph ends with its output")


class _Layout:
    def __init__(self, builder: Builder, passes: Passes) -> None:
        self.builder = builder
        self.passes = passes

    def settle(self, value: Stored) -> fx.Node:
        """The value itself, its permutation made."""
        if list(value.order) == sorted(value.order):
            return value.node
        if self.passes.split_permutes and value.node.meta["val"].numel() >= MIN_SPLIT:
            return reduce(self.builder.permute_now, split(shape(value.node), value.order), value.node)
        return self.builder.permute(value.node, value.order)

    def emit(self, target: Any, args: Any, kwargs: Any) -> Stored:
        if target is aten.permute.default:
            permuted = _permuted(args[0], args[1])
            return permuted if self.passes.cancel_permutes else _plain(self.settle(permuted))
        if target in UNARY:
            return self._unary(target, *args, **kwargs)
        if target in BINARY:
            return self._binary(target, args)
        if target is aten.slice.Tensor:
            x, dim, first, last = args
            return Stored(self.builder.call(target, x.node, x.order[dim], first, last), x.order)
        if target is aten.constant_pad_nd.default:
            return self._pad(*args)
        if target is aten.cat.default:
            return self._cat(*args)
        if target is aten.mm.default:
            return _plain(self._mm(*args))
        if target is aten.expand.default:
            return _plain(self._expand(*args))
        settled_args, settled_kwargs = _settle((args, kwargs), self.settle)
        if target is aten.reshape.default:
            return _plain(self.builder.reshape(*settled_args))
        return _plain(self.builder.call(target, *settled_args, **settled_kwargs))

    def _unary(self, target: Any, x: Stored, *args: Argument, **kwargs: Argument) -> Stored:
        if target in FUSED and x.node.target is aten.reshape.default:
            source: fx.Node = x.node.args[0]  # type: ignore[assignment]
            activated = self.builder.call(target, source, *args, **kwargs)
            return Stored(self.builder.reshape(activated, shape(x.node)), x.order)
        return Stored(self._elementwise(target, x.node, *args, **kwargs), x.order)

    def _binary(self, target: Any, args: Sequence[Argument]) -> Stored:
        tensors = [arg for arg in args if isinstance(arg, Stored)]
        sizes = broadcast([tensor.shape for tensor in tensors])
        order = _leading_order(tensors, sizes)
        operands = [self._stored_as(arg, order) if isinstance(arg, Stored) else arg for arg in args]
        return Stored(self._elementwise(target, *operands), order)

    def _elementwise(self, target: Any, *args: Argument, **kwargs: Argument) -> fx.Node:
        """The operator; on matrices [R, C], where all that it reads in full are such matrices in other sizes.

        Products make and take matrices. In other sizes between two of them, they would be copied there and back.
        """
        nodes = [arg for arg in args if isinstance(arg, fx.Node)]
        sizes = broadcast([shape(node) for node in nodes])
        full = {node: _matrix_behind(node) for node in nodes if shape(node) == sizes}
        rows = {
            node: self.builder.reshape(node, shape(node)[-1:])
            for node in nodes
            if node not in full and set(shape(node)[:-1]) <= {1}
        }
        matrices = [matrix for matrix in full.values() if matrix is not None]
        alike = len({tuple(shape(matrix)) for matrix in matrices}) == 1
        if (
            not self.passes.activations_on_matrices
            or not alike
            or len(matrices) + len(rows) < len(set(nodes))
        ):
            return self.builder.call(target, *args, **kwargs)
        found: dict[fx.Node, Any] = full | rows
        result = self.builder.call(target, *fx.map_arg(args, found.__getitem__), **kwargs)
        return self.builder.reshape(result, sizes)

    def _stored_as(self, value: Stored, order: tuple[int, ...]) -> fx.Node:
        """The tensor that, read in `order`, broadcasts like the value."""
        if order == tuple(range(len(order))):
            return self.settle(value)
        missing = len(order) - len(value.order)
        if missing:
            node = self.builder.reshape(self.settle(value), [1] * missing + value.shape)
            value = _plain(node)
        return self.settle(_permuted(value, _inverse(order)))

    def _pad(self, x: Stored, amounts: Sequence[int], fill: float = 0.0) -> Stored:
        rank = len(x.order)
        before, after = [0] * rank, [0] * rank
        for place in range(len(amounts) // 2):
            axis = x.order[rank - 1 - place]
            before[axis], after[axis] = amounts[2 * place], amounts[2 * place + 1]
        stored = [amount for axis in reversed(range(rank)) for amount in (before[axis], after[axis])]
        while stored[-2:] == [0, 0]:
            stored = stored[:-2]
        return Stored(self.builder.call(aten.constant_pad_nd.default, x.node, stored, fill), x.order)

    def _cat(self, parts: Sequence[Stored], dim: int) -> Stored:
        order = next((part.order for part in parts if list(part.order) != sorted(part.order)), parts[0].order)
        nodes = [self._stored_as(part, order) for part in parts]
        return Stored(self.builder.call(aten.cat.default, nodes, order[dim]), order)

    def _mm(self, a: Stored, b: Stored) -> fx.Node:
        if self.passes.linear_from_mm and b.order == (1, 0):
            return self.builder.call(aten.linear.default, self.settle(a), b.node)
        left, right = self.settle(a), self.settle(b)
        weight = row_weight(self.builder, left, right) if self.passes.averaged_rows else None
        if weight is not None:
            return weighted_average(self.builder, weight, right)
        return self.builder.call(aten.mm.default, left, right)

    def _expand(self, x: Stored, sizes: Sequence[int]) -> fx.Node:
        """A broadcast that has to be spelled out, as a product with ones."""
        node = self.settle(x)
        own = [1] * (len(sizes) - len(shape(node))) + shape(node)
        ones = [size if size != mine else 1 for size, mine in zip(sizes, own, strict=True)]
        return self.builder.call(
            aten.mul.Tensor, self.builder.reshape(node, own), self.builder.constant(torch.ones(ones))
        )


def _matrix_behind(node: fx.Node) -> fx.Node | None:
    """The matrix [R, C] that a tensor [..., C] is another shape of."""
    if node.target is not aten.reshape.default:
        return None
    source: fx.Node = node.args[0]  # type: ignore[assignment]
    return source if len(shape(source)) == 2 and shape(source)[1:] == shape(node)[-1:] else None


def _plain(node: fx.Node) -> Stored:
    value = node.meta["val"]
    return Stored(node, tuple(range(value.dim())) if isinstance(value, Tensor) else ())


def _permuted(value: Stored, order: Sequence[int]) -> Stored:
    return Stored(value.node, tuple(value.order[axis] for axis in order))


def _inverse(order: Sequence[int]) -> tuple[int, ...]:
    return tuple(order.index(axis) for axis in range(len(order)))


def _leading_order(tensors: Sequence[Stored], sizes: Sequence[int]) -> tuple[int, ...]:
    """The order in which the full-sized operands that wait for a permutation meet.

    Where they disagree, [H, W, N, C] it is: what follows, a norm or a dense product, will want that.
    """
    plain = tuple(range(len(sizes)))
    waiting = [tensor.order for tensor in tensors if tensor.shape == list(sizes) and tensor.order != plain]
    return SPATIAL_FIRST if SPATIAL_FIRST in waiting else next(iter(waiting), plain)


def _lookup(value: Any, known: dict[fx.Node, Stored]) -> Any:
    if isinstance(value, fx.Node):
        return known[value]
    if isinstance(value, dict):
        return {name: _lookup(item, known) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_lookup(item, known) for item in value)
    return value


def _settle(value: Any, settle: Any) -> Any:
    if isinstance(value, Stored):
        return settle(value)
    if isinstance(value, dict):
        return {name: _settle(item, settle) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_settle(item, settle) for item in value)
    return value

"""A rewrite before all others: the convolutional part of a step goes through the batch in a few pieces.

An operator over the whole batch leaves its result in main memory, where the next one has to fetch it. Most
layers of a convolutional network treat every image by itself, so one piece of the batch can go through all of
them, forward or backward, while its activations stay in the cache; gradients of weights are added up over the
pieces. What mixes images (a loss, batch normalisation) sees the whole batch, concatenated:

    images ──► piece 0: conv, norm, …, mean ─┐              ┌─► piece 0: …, conv backward ─┐
           └─► piece 1: conv, norm, …, mean ─┴─► the loss ──┴─► piece 1: …, conv backward ─┴─► weight gradients
"""

import operator
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch._ops import OpOverload

aten = torch.ops.aten

PIECE_BYTES = 1 << 20  # the largest activation of a piece should not exceed this, a core's share of the cache
# Each piece repeats the operators of the network in the program, and exporting four takes twice as long as two. They
# pay for narrow layers only, a tenth of the step: those move memory in short runs and multiply little in between.
MAX_PIECES = 2
MAX_NARROW_PIECES = 4
NARROW_CHANNELS = 16


@dataclass(frozen=True)
class Split:
    """How an operator works on a piece of the batch.

    Attributes:
        images: Positions of the arguments that hold one row per image; all other arguments are shared.
        apart: Whether this call leaves the images apart, which may depend on its arguments.
        sums: Outputs that are sums over the batch, and so are added up over the pieces.
        count: Position of an argument that is the number of images, or a list of sizes that begins with it.
    """

    images: tuple[int, ...] = (0,)
    apart: Callable[[fx.Node], bool] = lambda _: True
    sums: tuple[int, ...] = ()
    count: int | None = None


def _other_axes(position: int, default: Any = None) -> Callable[[fx.Node], bool]:
    """The axes named by the argument at `position` do not include the first."""

    def apart(node: fx.Node) -> bool:
        axes = node.args[position] if len(node.args) > position else node.kwargs.get("dim", default)
        if axes is None:
            return False
        rank = max(_value(source).dim() for source in node.all_input_nodes)
        every = axes if isinstance(axes, (list, tuple)) else [axes]
        return bool(every) and all(isinstance(axis, int) and axis % rank != 0 for axis in every)

    return apart


def _same_count(node: fx.Node) -> bool:
    """The first axis is as long before as after."""
    before, after = _value(node.all_input_nodes[0]), _value(node)
    return before.dim() > 0 and after.dim() > 0 and before.shape[0] == after.shape[0]


def _pads_other_axes(node: fx.Node) -> bool:
    amounts: Any = node.args[1]
    return len(amounts) < 2 * _value(node).dim()


def _broadcasts_other_axes(node: fx.Node) -> bool:
    return _same_count(node) and _value(node.all_input_nodes[0]).dim() == _value(node).dim()


_REDUCED = Split(apart=_other_axes(1))

SPLITS: Mapping[OpOverload, Split] = {
    aten.convolution.default: Split(),
    aten.convolution_backward.default: Split((0, 1), sums=(1, 2)),
    aten.native_group_norm.default: Split(count=3),
    aten.native_group_norm_backward.default: Split((0, 1, 2, 3), sums=(1, 2), count=5),
    aten.max_pool2d_with_indices.default: Split(),
    aten.max_pool2d_with_indices_backward.default: Split((0, 1, 7)),
    aten.avg_pool2d.default: Split(),
    aten.avg_pool2d_backward.default: Split((0, 1)),
    aten._adaptive_avg_pool2d.default: Split(),
    aten._adaptive_avg_pool2d_backward.default: Split((0, 1)),
    aten.mean.dim: _REDUCED,
    aten.sum.dim_IntList: _REDUCED,
    aten.amax.default: _REDUCED,
    aten.cat.default: Split(apart=_other_axes(1, 0)),
    aten.slice.Tensor: Split(apart=_other_axes(1, 0)),
    aten.split.Tensor: Split(apart=_other_axes(2, 0)),
    aten.split_with_sizes.default: Split(apart=_other_axes(2, 0)),
    aten.constant_pad_nd.default: Split(apart=_pads_other_axes),
    aten.reshape.default: Split(apart=_same_count, count=1),
    aten.expand.default: Split(apart=_broadcasts_other_axes, count=1),
    aten.detach.default: Split(),
    aten.alias.default: Split(),
}


def split_batch(module: fx.GraphModule) -> fx.GraphModule:
    """The same function of ATen operators (as autograd calls them), in pieces where that pays."""
    module.graph.eliminate_dead_code()  # autograd asks for every output of a backward operator, wanted or not
    plan = _plan(module.graph)
    return fx.GraphModule(module, _Writer(plan).write(module.graph)) if plan.pieces else module


@dataclass(frozen=True, order=True)
class Activation:
    """The size of an input or output of a convolution."""

    bytes: int
    channels: int


def count_pieces(batch: int, largest: Activation) -> int:
    """Into how many pieces to cut a batch with this largest activation.

    The fewest equal ones that are small enough, or else as many as are allowed.
    """
    allowed = MAX_NARROW_PIECES if largest.channels <= NARROW_CHANNELS else MAX_PIECES
    counts = [count for count in range(1, allowed + 1) if batch % count == 0]
    return next((count for count in counts if largest.bytes <= count * PIECE_BYTES), counts[-1])


@dataclass(frozen=True)
class _Plan:
    """What is done in pieces, and when.

    Attributes:
        pieces: For each node that works in pieces, how many.
        levels: For each node, its turn. A piece needs pieces of its own level and whole results up to its level.
    """

    pieces: Mapping[fx.Node, int]
    levels: Mapping[fx.Node, int]


def _plan(graph: fx.Graph) -> _Plan:
    largest = _largest_activations(graph)
    pieces: dict[fx.Node, int] = {}
    levels: dict[fx.Node, int] = {}
    for node in graph.nodes:
        count = _pieces_of(node, pieces, largest)
        if count > 1:
            pieces[node] = count
        waits = [levels[source] + (source in pieces and count == 1) for source in node.all_input_nodes]
        levels[node] = max(levels.values()) + 1 if node.op == "output" else max(waits, default=0)
    return _Plan(pieces, levels)


def _largest_activations(graph: fx.Graph) -> Mapping[int, Activation]:
    """For each batch size, the largest input or output of a convolution."""
    largest: dict[int, Activation] = {}
    for node in graph.nodes:
        if node.target is aten.convolution.default:
            for value in (_value(node), _value(node.args[0])):
                activation = Activation(value.numel() * value.element_size(), value.shape[1])
                largest[value.shape[0]] = max(largest.get(value.shape[0], activation), activation)
    return largest


def _pieces_of(node: fx.Node, pieces: Mapping[fx.Node, int], largest: Mapping[int, Activation]) -> int:
    """How many pieces the node works in."""
    if node.target is operator.getitem:
        source, index = node.args
        summed = source in pieces and index in _split_of_call(source).sums  # type: ignore[union-attr, arg-type]
        return 1 if summed else pieces.get(source, 1)  # type: ignore[arg-type]
    split = _split_of_call(node)
    if split is None:
        return 1
    images = _images(node, split)
    inside = any(image in pieces for image in images)
    shared = [source for source in node.all_input_nodes if source not in images]
    if not (inside or _begins(node)) or any(source in pieces for source in shared):
        return 1
    batch = _value(images[0]).shape[0]
    return count_pieces(batch, largest[batch])


def _begins(node: fx.Node) -> bool:
    """Pieces begin at convolutions whose result is used image by image."""
    return node.target is aten.convolution.default and all(
        _split_of_call(user) is not None for user in node.users
    )


def _split_of_call(node: fx.Node) -> Split | None:
    """How the node can be split; None if it mixes images, or if that is not known."""
    if not isinstance(node.target, OpOverload):
        return None
    if torch.Tag.pointwise in node.target.tags:
        return _split_of_pointwise(node)
    split = SPLITS.get(node.target)
    return split if split is not None and split.apart(node) else None


def _split_of_pointwise(node: fx.Node) -> Split | None:
    """Arguments that are broadcast over the batch are shared."""
    value = node.meta["val"]
    images = tuple(
        place
        for place, arg in enumerate(node.args)
        if isinstance(arg, fx.Node)
        and isinstance(value, Tensor)
        and _value(arg).dim() == value.dim() > 0
        and _value(arg).shape[0] == value.shape[0]
    )
    return Split(images) if images else None


def _images(node: fx.Node, split: Split) -> list[fx.Node]:
    """The tensors among a node's arguments that hold one row per image."""
    found: list[fx.Node] = []
    fx.map_arg([node.args[place] for place in split.images], found.append)
    return found


def _value(node: Any) -> Tensor:
    value = node.meta["val"]
    assert isinstance(value, Tensor)
    return value


class _Writer:
    """Writes the planned graph: level by level, what is whole, then one piece after another."""

    def __init__(self, plan: _Plan) -> None:
        self._plan = plan
        self._graph = fx.Graph()
        self._whole: dict[fx.Node, fx.Node] = {}
        self._parts: dict[fx.Node, list[fx.Node]] = defaultdict(list)

    def write(self, graph: fx.Graph) -> fx.Graph:
        """The planned graph."""
        by_level: dict[int, list[fx.Node]] = defaultdict(list)
        for node in graph.nodes:
            by_level[self._plan.levels[node]].append(node)
        for level in sorted(by_level):
            split: dict[int, list[fx.Node]] = defaultdict(list)
            for node in by_level[level]:
                if node in self._plan.pieces:
                    split[self._plan.pieces[node]].append(node)
                elif node not in self._whole:
                    self._whole[node] = self._graph.node_copy(node, self._as_whole)
            for count, nodes in split.items():
                for piece in range(count):
                    for node in nodes:
                        self._write_piece(node, piece)
        self._graph.lint()
        return self._graph

    def _write_piece(self, node: fx.Node, piece: int) -> None:
        split = _split_of_call(node) or Split()  # getitem has one argument, in pieces
        args: list[Any] = [
            fx.map_arg(arg, lambda source: self._part(source, piece, self._plan.pieces[node]))
            if place in split.images
            else fx.map_arg(arg, self._as_whole)
            for place, arg in enumerate(node.args)
        ]
        if split.count is not None:
            args[split.count] = _divided(args[split.count], self._plan.pieces[node])
        part = self._call(node, tuple(args), fx.map_arg(node.kwargs, self._as_whole))
        self._parts[node].append(part)
        for user in node.users:
            if split.sums and user.args[1] in split.sums:
                self._add_up(user, part)

    def _call(self, like: fx.Node, args: Any, kwargs: Any) -> fx.Node:
        assert callable(like.target)
        node = self._graph.call_function(like.target, args, kwargs)
        if "stack_trace" in like.meta:
            node.meta["stack_trace"] = like.meta["stack_trace"]
        return node

    def _add_up(self, summed: fx.Node, part: fx.Node) -> None:
        """Adds one piece's share to an output that is a sum over the batch."""
        share = self._graph.call_function(operator.getitem, (part, summed.args[1]))
        before = self._whole.get(summed)
        self._whole[summed] = (
            share if before is None else self._graph.call_function(aten.add.Tensor, (before, share))
        )

    def _as_whole(self, node: fx.Node) -> fx.Node:
        if node not in self._whole:
            self._whole[node] = self._graph.call_function(aten.cat.default, (self._parts[node],))
        return self._whole[node]

    def _part(self, node: fx.Node, piece: int, count: int) -> fx.Node:
        if node not in self._plan.pieces and not self._parts[node]:
            size = _value(node).shape[0] // count
            self._parts[node] = [
                self._graph.call_function(
                    aten.slice.Tensor, (self._whole[node], 0, place * size, (place + 1) * size)
                )
                for place in range(count)
            ]
        return self._parts[node][piece]


def _divided(count: Any, pieces: int) -> Any:
    """A number of images, or sizes that begin with it, of one piece; a size to be inferred stays so."""
    if isinstance(count, int):
        return count if count == -1 else count // pieces
    return [_divided(count[0], pieces), *count[1:]]

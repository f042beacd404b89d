"""Building a graph of ATen operators node by node, with shapes, shared expressions and no idle moves."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx

aten = torch.ops.aten

Argument = Any  # a node, a number, None, or a list of those
Key = tuple[Any, ...]


class Builder:
    """Appends operators to a new graph. Every node carries its shape and type as a meta tensor in `meta["val"]`.

    Attributes:
        graph: The graph built so far.
        constants: The tensors that the graph's `get_attr` nodes name.
    """

    def __init__(self, share: bool = True) -> None:
        self.graph = fx.Graph()
        self.constants: dict[str, Tensor] = {}
        self._share = share
        self._known: dict[Key, fx.Node] = {}

    def placeholder(self, name: str, like: Tensor) -> fx.Node:
        """An input of the graph."""
        node = self.graph.placeholder(name)
        node.meta["val"] = torch.empty(like.shape, dtype=like.dtype, device="meta")
        return node

    def constant(self, value: Tensor) -> fx.Node:
        """A tensor known now; equal tensors share one node."""
        value = value.detach().contiguous()
        key: Key = (
            "constant",
            value.dtype,
            tuple(value.shape),
            value.view(-1).view(torch.uint8).numpy().tobytes(),
        )
        if key not in self._known:
            name = f"constant_{len(self.constants)}"
            self.constants[name] = value.clone()
            node = self.graph.create_node("get_attr", name, name=name)
            node.meta["val"] = value.to("meta")
            self._known[key] = node
        return self._known[key]

    def value(self, node: fx.Node) -> Tensor | None:
        """The tensor behind a constant node, or None for a computed one."""
        return self.constants.get(str(node.target)) if node.op == "get_attr" else None

    def fold(self, target: Callable[..., Any], args: Argument, kwargs: Argument) -> Any:
        """The operator's results as constants if all its tensors are constants, else None. Broadcasts are not folded."""
        nodes: list[fx.Node] = []
        fx.map_arg((args, kwargs), nodes.append)
        if target is aten.expand.default or not all(node.op == "get_attr" for node in nodes):
            return None
        values, named = fx.map_arg((args, kwargs), self.value)
        result = target(*values, **{name: item for name, item in named.items() if name != "device"})
        return self.constant(result) if isinstance(result, Tensor) else tuple(map(self.constant, result))

    def call(self, target: Callable[..., Any], *args: Argument, **kwargs: Argument) -> fx.Node:
        """The result of an operator; a constant if all its tensors are, or the result of an equal call before."""
        key: Key = (target, _freeze(args), _freeze(kwargs))
        if self._share and key in self._known:
            return self._known[key]
        folded = self.fold(target, args, kwargs)
        if isinstance(folded, fx.Node):
            return folded
        node = self.graph.call_function(target, args, kwargs)
        node.meta["val"] = target(*fx.map_arg(args, _meta), **fx.map_arg(kwargs, _meta))
        self._known[key] = node
        return node

    def reshape(self, x: fx.Node, sizes: Sequence[int]) -> fx.Node:
        """x with other sizes; a reshape of a reshape is one reshape."""
        if x.op == "call_function" and x.target is aten.reshape.default:
            return self.reshape(x.args[0], sizes)  # type: ignore[arg-type]
        if shape(x) == list(sizes):
            return x
        return self.call(aten.reshape.default, x, list(sizes))

    def permute(self, x: fx.Node, order: Sequence[int]) -> fx.Node:
        """x with its axes in another order; a permutation of a permutation is one permutation."""
        if x.op == "call_function" and x.target is aten.permute.default and list(order) != sorted(order):
            inner: Sequence[int] = x.args[1]  # type: ignore[assignment]
            return self.permute(x.args[0], [inner[i] for i in order])  # type: ignore[arg-type]
        return self.permute_now(x, order)

    def permute_now(self, x: fx.Node, order: Sequence[int]) -> fx.Node:
        """The same as an operator of its own, whatever x is; moving axes of size one is a reshape."""
        if list(order) == sorted(order):
            return x
        moved = [i for i in order if shape(x)[i] != 1]
        if moved == sorted(moved):
            return self.reshape(x, [shape(x)[i] for i in order])
        return self.call(aten.permute.default, x, list(order))

    def finish(self, outputs: Argument) -> fx.GraphModule:
        """The module that computes `outputs`; what they do not need is dropped."""
        self.graph.output(outputs)
        self.graph.eliminate_dead_code()
        used = {node.target for node in self.graph.nodes if node.op == "get_attr"}
        root = torch.nn.Module()
        for name, value in self.constants.items():
            if name in used:
                root.register_buffer(name, value)
        self.graph.lint()
        return fx.GraphModule(root, self.graph)


def shape(node: fx.Node) -> list[int]:
    """The sizes of a node's result."""
    return list(node.meta["val"].shape)


def tensor_attribute(module: torch.nn.Module, name: str) -> Tensor:
    """The tensor that a `get_attr` node names."""
    owner: Any = module
    for part in name.split("."):
        owner = getattr(owner, part)
    assert isinstance(owner, Tensor)
    return owner


def _meta(node: fx.Node) -> Any:
    return node.meta["val"]


def _freeze(value: Argument) -> Any:
    """A hashable stand-in that keeps 1, 1.0 and True apart."""
    if isinstance(value, fx.Node):
        return value
    if isinstance(value, Mapping):
        return tuple((name, _freeze(item)) for name, item in value.items())
    if isinstance(value, (list, tuple)):
        return tuple(_freeze(item) for item in value)
    return type(value), value

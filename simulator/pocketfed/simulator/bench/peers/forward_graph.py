"""A network's forward pass as a graph of few operators, and an interpreter that builds it again in another engine.

    module --torch.export--> ATen --decompositions--> the vocabulary below --constants folded--> graph

Engines differentiate the graph themselves. What has no gradient in one of them (instance normalisation in ONNX
Runtime, for one) is spelled out for all.
"""

import copy
import math
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, fx, nn

from pocketfed.core.errors import PeerError

Value = TypeVar("Value")
aten = torch.ops.aten


def forward_graph(module: nn.Module, views: Tensor, whole: Collection[Any] = ()) -> fx.GraphModule:
    """The forward pass for inputs of this shape; shapes in it are numbers, and weights are its parameters.

    Operators: conv2d, linear, mm, permute, view, slice, cat; add, sub, mul, div; relu, sigmoid, tanh, exp, log, sqrt,
    clamp; sum, mean and amax over given dimensions; detach; those in `whole`, which are kept as they are; and those
    that no decomposition here knows.

    Raises:
        PeerError: the network cannot be exported or changes its buffers.
    """
    table = {operator: rule for operator, rule in _DECOMPOSITIONS.items() if operator not in whole}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            exported = torch.export.export(copy.deepcopy(module), (views,), strict=False)
            exported = exported.run_decompositions(table)
            graph_module = exported.module(check_guards=False)
    except (RuntimeError, TypeError, ValueError) as error:
        raise PeerError(f"the forward pass cannot be exported: {error}") from error
    if mutated := exported.graph_signature.buffers_to_mutate:
        raise PeerError(f"the forward pass changes buffers: {', '.join(mutated.values())}")
    assert isinstance(graph_module, fx.GraphModule)
    _fold_constants(graph_module)
    _write_out_slices(graph_module)
    return graph_module


def interpret(
    graph_module: fx.GraphModule,
    views: Value,
    attributes: Mapping[str, Value],
    operators: Mapping[Any, Callable[..., Value]],
    engine: str,
) -> Value:
    """Build the graph again out of an engine's own operators.

    Args:
        graph_module: from `forward_graph`.
        views: the engine's value for its input.
        attributes: the engine's values for parameters and constants, by name.
        operators: for each ATen operator, a function that takes its arguments, tensors replaced by values.
        engine: its name in errors.

    Returns:
        The engine's value of the loss.

    Raises:
        PeerError: the engine knows no such operator.
    """
    values: dict[fx.Node, Value] = {}
    for node in graph_module.graph.nodes:
        if node.op == "placeholder":
            values[node] = views
        elif node.op == "get_attr":
            values[node] = attributes[node.target]
        elif node.op == "call_function":
            if node.target not in operators or node.kwargs.get("alpha", 1) != 1:
                raise PeerError(f"cannot train this network: {engine} has no translation of {node.target}")
            args, kwargs = _arguments(node, values)
            values[node] = operators[node.target](*args, **kwargs)
        else:
            (result,) = node.args[0]
    return values[result]


def _arguments(node: fx.Node, values: Mapping[fx.Node, Any]) -> Any:
    """A node's arguments and keywords, values in the places of nodes."""
    return fx.node.map_arg((node.args, node.kwargs), values.__getitem__)


def attributes_of(graph_module: fx.GraphModule) -> dict[str, Tensor]:
    """Parameters and constants of the graph by name."""
    used = {node.target for node in graph_module.graph.nodes if node.op == "get_attr"}
    every = dict(graph_module.named_parameters()) | dict(graph_module.named_buffers())
    return {name: tensor.detach() for name, tensor in every.items() if name in used}


def _fold_constants(graph_module: fx.GraphModule) -> None:
    """Replace what depends on neither the input nor a weight by its value."""
    weights = {name for name, _ in graph_module.named_parameters()}
    known: dict[fx.Node, Any] = {}
    for node in graph_module.graph.nodes:
        if node.op == "get_attr" and node.target not in weights:
            known[node] = _attribute(graph_module, node.target)
        elif node.op == "call_function" and all(used in known for used in node.all_input_nodes):
            args, kwargs = _arguments(node, known)
            known[node] = node.target(*args, **kwargs)
    for node, value in known.items():
        if isinstance(value, Tensor) and any(user not in known for user in node.users):
            name = f"constant_{node.name}"
            graph_module.register_buffer(name, value.detach().clone())
            with graph_module.graph.inserting_before(node):
                node.replace_all_uses_with(graph_module.graph.get_attr(name))
    graph_module.graph.eliminate_dead_code()
    graph_module.recompile()


def _write_out_slices(graph_module: fx.GraphModule) -> None:
    """Slices as (x, dim, start, end), all of them there and within the tensor."""
    for node in graph_module.graph.find_nodes(op="call_function", target=aten.slice.Tensor):
        given: tuple[Any, ...] = node.args
        x, dim, start, end, step = given + (0, None, None, 1)[len(given) - 1 :]
        shape = x.meta["val"].shape
        start, end, step = slice(start, end, step).indices(shape[dim])
        if step != 1:
            raise PeerError(f"cannot train this network: peers have no slices of step {step}")
        node.args = (x, dim % len(shape), start, end)


def _attribute(graph_module: fx.GraphModule, path: str) -> Any:
    owner, _, name = path.rpartition(".")
    return getattr(graph_module.get_submodule(owner), name)


def _group_norm(
    x: Tensor,
    groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    cudnn_enabled: bool = True,
) -> Tensor:
    shape = x.shape
    per_channel = [1, shape[1]] + [1] * (len(shape) - 2)
    grouped = x.reshape(shape[0], groups, math.prod(shape[1:]) // groups)
    centred = grouped - grouped.mean(2, keepdim=True)
    deviation = torch.sqrt((centred * centred).mean(2, keepdim=True) + eps)
    y = (centred / deviation).reshape(shape)
    if weight is not None:
        y = y * weight.reshape(per_channel)
    return y if bias is None else y + bias.reshape(per_channel)


def _split(x: Tensor, sizes: Sequence[int], dim: int = 0) -> list[Tensor]:
    ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
    return [aten.slice(x, dim, end - size, end) for size, end in zip(sizes, ends, strict=True)]


def _split_evenly(x: Tensor, size: int, dim: int = 0) -> list[Tensor]:
    return _split(x, [min(size, x.shape[dim] - start) for start in range(0, x.shape[dim], size)], dim)


def _chunk(x: Tensor, chunks: int, dim: int = 0) -> list[Tensor]:
    return _split_evenly(x, -(-x.shape[dim] // chunks), dim)


def _gelu(x: Tensor, approximate: str = "none") -> Tensor:
    if approximate == "none":
        return x * 0.5 * (1.0 + torch.erf(x * math.sqrt(0.5)))
    return x * 0.5 * (1.0 + torch.tanh((x + 0.044715 * (x * x * x)) * math.sqrt(2.0 / math.pi)))


def _reciprocal(x: Tensor) -> Tensor:
    return torch.ones((), dtype=x.dtype) / x


def _squeezed(x: Tensor, dims: Sequence[int]) -> Tensor:
    dropped = {dim % x.dim() for dim in dims}
    return x.reshape([size for dim, size in enumerate(x.shape) if not (dim in dropped and size == 1)])


def _unsqueeze(x: Tensor, dim: int) -> Tensor:
    shape = list(x.shape)
    shape.insert(dim % (x.dim() + 1), 1)
    return x.reshape(shape)


_DECOMPOSITIONS: dict[Any, Callable[..., Any]] = {
    aten.group_norm.default: _group_norm,
    aten.split.Tensor: _split_evenly,
    aten.split_with_sizes.default: _split,
    aten.chunk.default: _chunk,
    aten.gelu.default: _gelu,
    aten.silu.default: lambda x: x * torch.sigmoid(x),
    aten.hardswish.default: lambda x: x * (torch.clamp(x + 3.0, 0.0, 6.0) * (1.0 / 6.0)),
    aten.hardsigmoid.default: lambda x: torch.clamp(x + 3.0, 0.0, 6.0) * (1.0 / 6.0),
    aten.hardtanh.default: lambda x, low=-1.0, high=1.0: torch.clamp(x, low, high),
    aten.relu6.default: lambda x: torch.clamp(x, 0.0, 6.0),
    aten.rsqrt.default: lambda x: _reciprocal(torch.sqrt(x)),
    aten.reciprocal.default: _reciprocal,
    aten.neg.default: lambda x: x * -1.0,
    aten.rsub.Scalar: lambda x, other, alpha=1: x * (-1.0 * alpha) + other,
    aten.addmm.default: lambda bias, x, y: torch.mm(x, y) + bias,
    aten.t.default: lambda x: x.permute(1, 0),
    aten.transpose.int: lambda x, a, b: x.movedim((a, b), (b, a)),
    aten.squeeze.dim: lambda x, dim: _squeezed(x, [dim]),
    aten.squeeze.dims: _squeezed,
    aten.unsqueeze.default: _unsqueeze,
    aten.flatten.using_ints: lambda x, start=0, end=-1: x.reshape(
        (*x.shape[:start], -1, *x.shape[end % x.dim() + 1 :])
    ),
    aten.matmul.default: lambda x, y: torch.mm(x, y) if x.dim() == y.dim() == 2 else NotImplemented,
    aten.adaptive_avg_pool2d.default: lambda x, size: (
        x.mean((2, 3), keepdim=True) if tuple(size) == (1, 1) else NotImplemented
    ),
    aten.sum.default: lambda x: x.sum(list(range(x.dim()))),
    aten.mean.default: lambda x: x.mean(list(range(x.dim()))),
}

"""A lowered graph written down in ExecuTorch's edge dialect, without tracing it again.

ExecuTorch's own way to that dialect traces a graph some fifteen times, looking for what a lowered step has not: views,
writes, decompositions, mixed types. Here each operator is replaced once, by its twin of that dialect.
Leans on ExecuTorch's internals; tests/export/test_edge_dialect.py compares the result with ExecuTorch's own.
"""

import functools
import itertools
from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard

import torch
from torch import Tensor, fx
from torch._subclasses import FakeTensorMode
from torch.export import ExportedProgram
from torch.export.exported_program import ModuleCallEntry, ModuleCallSignature
from torch.export.graph_signature import (
    ExportGraphSignature,
    InputKind,
    InputSpec,
    OutputKind,
    OutputSpec,
    TensorArgument,
)
from torch.utils._pytree import tree_structure

aten = torch.ops.aten

Source = fx.Node | float  # a node of the graph as it was, or a number in it

# The dialect has no views: these operators have another name there.
COPIES = {
    aten.reshape.default: aten.view_copy.default,
    aten.slice.Tensor: aten.slice_copy.Tensor,
    aten.permute.default: aten.permute_copy.default,
}

PLAIN = COPIES.keys() | {
    aten.mm.default, aten.bmm.default, aten.linear.default, aten.cat.default, aten.constant_pad_nd.default,
    aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.div.Tensor, aten.maximum.default,
    aten.minimum.default, aten.relu.default, aten.hardtanh.default, aten.clamp.default, aten.abs.default,
    aten.neg.default, aten.exp.default, aten.log.default, aten.sqrt.default, aten.rsqrt.default,
    aten.sigmoid.default, aten.tanh.default, aten.floor.default, aten.ceil.default, aten.sin.default,
    aten.cos.default, aten.leaky_relu.default, aten.mean.dim,
}  # fmt: skip
"""Operators that on the way to the edge dialect change nothing but their name."""


def is_plain(module: torch.nn.Module) -> TypeGuard[fx.GraphModule]:
    """Whether `edge_program` takes a module: a graph of operators in `PLAIN` on float32, and of casts to float32."""
    return isinstance(module, fx.GraphModule) and all(map(_is_plain, module.graph.nodes))


def edge_program(module: fx.GraphModule) -> ExportedProgram:
    """The program of a graph that `is_plain`: constants and numbers first, as buffers, then inputs, then operators."""
    graph, fake = fx.Graph(), functools.cache(functools.partial(_fake, FakeTensorMode()))
    known: dict[Source, fx.Node] = {}

    def remember(source: Source, node: fx.Node, value: Tensor) -> fx.Node:
        node.meta["val"] = fake(value.shape, value.dtype)
        if isinstance(source, fx.Node) and "stack_trace" in source.meta:
            node.meta["stack_trace"] = source.meta["stack_trace"]
        known[source] = node
        return node

    buffers = {
        remember(source, graph.placeholder(f"constant_{place}"), value).name: value
        for place, (source, value) in enumerate(_constants(module).items())
    }
    inputs = [
        remember(node, graph.placeholder(node.name), node.meta["val"])
        for node in module.graph.find_nodes(op="placeholder")
    ]
    for node in _calls(module):
        remember(node, graph.call_function(*_edge_call(node, known)), node.meta["val"])
    outputs: Any = module.graph.output_node().args[0]
    return _exported(graph, buffers, inputs, [known[node] for node in outputs])


def idle_program(program: ExportedProgram) -> ExportedProgram:
    """A program with the inputs and outputs of another, which computes nothing.

    ExecuTorch runs what it has delegated, twice, only to learn the sizes of the outputs: it may run this instead.
    """
    graph = fx.Graph()
    given: list[fx.Node] = [
        node
        for node in program.graph.find_nodes(op="placeholder")
        if node.name in program.graph_signature.user_inputs
    ]
    inputs = [_as(node, graph.placeholder(node.name)) for node in given]
    wanted: Any = program.graph.output_node().args[0]
    results = [
        _as(node, graph.call_function(aten.full.default, (list(node.meta["val"].shape), 0.0)))
        for node in wanted
    ]
    return _exported(graph, {}, inputs, results)


def _as(like: fx.Node, node: fx.Node) -> fx.Node:
    node.meta["val"] = like.meta["val"]
    return node


def _is_plain(node: fx.Node) -> bool:
    if node.op == "output":
        return isinstance(node.args[0], tuple) and all(isinstance(value, fx.Node) for value in node.args[0])
    value = node.meta.get("val")
    if not isinstance(value, Tensor) or (value.dtype != torch.float32 and node.op != "placeholder"):
        return False
    if node.target is aten._to_copy.default:
        return dict(node.kwargs) == {"dtype": torch.float32}
    if node.op == "call_function":
        floats = all(source.meta["val"].dtype == torch.float32 for source in node.all_input_nodes)
        return node.target in PLAIN and not node.kwargs and floats
    return node.op in ("placeholder", "get_attr")


def _constants(module: fx.GraphModule) -> dict[Source, Tensor]:
    """What is known already: the tensors of `get_attr` nodes, and numbers where an operator wants a tensor."""
    tensors: dict[Source, Tensor] = {
        node: module.get_buffer(str(node.target)) for node in module.graph.find_nodes(op="get_attr")
    }
    numbers = {value for node in _calls(module) for value in _tensor_args(node) if isinstance(value, float)}
    return tensors | {number: torch.tensor(number) for number in sorted(numbers)}


def _calls(module: fx.GraphModule) -> list[fx.Node]:
    return [node for node in module.graph.nodes if node.op == "call_function"]


def _tensor_args(node: fx.Node) -> tuple[Any, ...]:
    """The arguments of a call that the operator wants as tensors; they come first. Numbers are floats."""
    target: Any = node.target
    wanted = itertools.takewhile(lambda one: isinstance(one.type, torch.TensorType), target._schema.arguments)
    values = [value for value, _ in zip(node.args, wanted, strict=False)]
    return tuple(float(value) if isinstance(value, int) else value for value in values)


def _edge_call(node: fx.Node, known: Mapping[Source, fx.Node]) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
    """Operator, arguments and keywords in the edge dialect."""
    from executorch.exir.dialects._ops import ops
    from executorch.exir.passes.replace_aten_with_edge_pass import aten_to_edge

    tensors = _tensor_args(node)
    others = fx.map_arg(node.args[len(tensors) :], known.__getitem__)
    args = (*(known[value] for value in tensors), *others)
    target: Any = node.target
    if target is aten._to_copy.default:
        layout = {"dim_order": list(range(node.meta["val"].dim()))}
        return ops.edge.dim_order_ops._to_dim_order_copy.default, args, {**node.kwargs, **layout}
    return aten_to_edge(COPIES.get(target, target)), args, {}


def _fake(mode: FakeTensorMode, sizes: torch.Size, dtype: torch.dtype) -> Tensor:
    with mode:
        return torch.empty(sizes, dtype=dtype)


def _exported(
    graph: fx.Graph, buffers: dict[str, Tensor], inputs: Sequence[fx.Node], results: Sequence[fx.Node]
) -> ExportedProgram:
    from executorch.exir import EdgeCompileConfig
    from executorch.exir.verification.verifier import EXIREdgeDialectVerifier

    graph.output(tuple(results)).meta["val"] = tuple(result.meta["val"] for result in results)
    signature = ExportGraphSignature(
        [InputSpec(InputKind.BUFFER, TensorArgument(name), name, persistent=True) for name in buffers]
        + [InputSpec(InputKind.USER_INPUT, TensorArgument(node.name), None) for node in inputs],
        [OutputSpec(OutputKind.USER_OUTPUT, TensorArgument(node.name), None) for node in results],
    )
    called = ModuleCallSignature(
        inputs=[],
        outputs=[],
        in_spec=tree_structure((tuple(inputs), {})),
        out_spec=tree_structure(tuple(results)),
    )
    config = EdgeCompileConfig(_check_ir_validity=False)
    return ExportedProgram(
        root=torch.nn.Module(),
        graph=graph,
        graph_signature=signature,
        state_dict=dict(buffers),
        range_constraints={},
        module_call_graph=[ModuleCallEntry("", called)],
        verifiers=[EXIREdgeDialectVerifier(config, class_only=True)],
    )

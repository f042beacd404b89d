"""From graphs to an ExecuTorch program, delegated to XNNPACK.

The only module that imports ExecuTorch's exporter. One private part of PyTorch is touched, in `_ShallowSource`.
"""

import gc
import logging
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from unittest.mock import patch

import torch
from torch import Tensor, fx
from torch.export import ExportedProgram
from torch.fx import traceback

from pocketfed.core.errors import ExportError
from pocketfed.export.xnnpack_passes import only_needed_passes

# Operators that may run as portable kernels: XNNPACK knows floats only, so bytes are cast outside it.
CHEAP = frozenset({"dim_order_ops._to_dim_order_copy.default", "aten._to_copy.default"})

Method = tuple[torch.nn.Module, tuple[Tensor, ...]]


@dataclass(frozen=True)
class MethodReport:
    """What became of one method.

    Attributes:
        delegates: How many pieces XNNPACK runs; one is best.
        portable: The operators left to portable kernels, by name, in order.
        arena_bytes: Memory planned by ExecuTorch; XNNPACK's own workspace comes on top.
        operators: How often each operator occurs, before delegation.
    """

    delegates: int
    portable: tuple[str, ...]
    arena_bytes: int
    operators: Mapping[str, int]


@dataclass(frozen=True)
class Program:
    """A `.pte` file's bytes and a report on each of its methods."""

    buffer: bytes
    methods: Mapping[str, MethodReport]


def build_program(methods: Mapping[str, Method], allow_portable: bool = False) -> Program:
    """Exports several methods into one program.

    Args:
        methods: For each method name, a module and example inputs of the shapes it will always be called with.
        allow_portable: Accept operators that XNNPACK does not take and run them as slow portable kernels.

    Raises:
        ExportError: An operator is left outside the delegate that is not cheap, and `allow_portable` is false;
            or the module cannot be exported at all.
    """
    with _exporting():
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import EdgeCompileConfig, to_edge_transform_and_lower

        exported = {name: _export(name, module, inputs) for name, (module, inputs) in methods.items()}
        partitioner = XnnpackPartitioner(force_non_static_weights_for_f32_linear=True)
        operators = {name: _operators(program.graph) for name, program in exported.items()}
        with only_needed_passes({operator for every in operators.values() for operator in every}):
            edge = to_edge_transform_and_lower(
                exported,
                partitioner={name: [partitioner] for name in exported},
                compile_config=EdgeCompileConfig(_check_ir_validity=False),
            )
        portable = {name: _portable_nodes(edge.exported_program(name).graph) for name in exported}
        if not allow_portable:
            _refuse(portable, {name: module for name, (module, _) in methods.items()})
        delegates = {name: _count_delegates(edge.exported_program(name).graph) for name in exported}
        finished = edge.to_executorch()
    arenas = {
        plan.name: sum(plan.non_const_buffer_sizes) for plan in finished.executorch_program.execution_plan
    }
    reports = {
        name: MethodReport(
            delegates[name],
            tuple(_operator_name(node) for node in portable[name]),
            arenas[name],
            operators[name],
        )
        for name in exported
    }
    return Program(bytes(finished.buffer), reports)


def _export(name: str, module: torch.nn.Module, inputs: tuple[Tensor, ...]) -> ExportedProgram:
    try:
        with torch.no_grad():
            return torch.export.export(module, inputs, strict=False)
    except Exception as error:
        raise ExportError(f"method {name!r} cannot be exported: {error}") from error


def _refuse(portable: Mapping[str, list[fx.Node]], sources: Mapping[str, torch.nn.Module]) -> None:
    """Raises if any method needs a portable kernel that is not cheap."""
    problems = [
        f"method {name!r}: {_operator_name(node)} on {_shape(node)}{_origin(node, sources[name])}"
        for name, nodes in portable.items()
        for node in nodes
        if _operator_name(node) not in CHEAP
    ]
    if problems:
        raise ExportError(
            "XNNPACK does not take these operators: "
            + "; ".join(problems)
            + ". Write them with products, elementwise operators, slices and concatenations, lower the step first "
            "(pocketfed.export.lowering.lower), or pass allow_portable=True to run them slowly."
        )


def _portable_nodes(graph: fx.Graph) -> list[fx.Node]:
    return [
        node for node in graph.nodes if node.op == "call_function" and _operator_name(node) not in _PLUMBING
    ]


def _count_delegates(graph: fx.Graph) -> int:
    return sum(_operator_name(node) == _DELEGATE_CALL for node in graph.nodes if node.op == "call_function")


def _operators(graph: fx.Graph) -> Mapping[str, int]:
    return Counter(_operator_name(node) for node in graph.nodes if node.op == "call_function")


_DELEGATE_CALL = "executorch_call_delegate"
_PLUMBING = frozenset({_DELEGATE_CALL, "getitem"})


def _operator_name(node: fx.Node) -> str:
    target = node.target
    if isinstance(target, torch._ops.OpOverload):
        return str(target)
    return str(getattr(target, "__name__", target))


def _shape(node: fx.Node) -> str:
    value = node.meta.get("val")
    return f"{list(value.shape)} {value.dtype}" if isinstance(value, Tensor) else "several tensors"


def _origin(node: fx.Node, source: torch.nn.Module) -> str:
    """Where the operator comes from, if known: its module's path, or the line of Python that called it."""
    modules = [path for path, _ in node.meta.get("nn_module_stack", {}).values() if path]
    if modules:
        return f" in module {modules[-1]}"
    if isinstance(source, fx.GraphModule):
        for original in source.graph.nodes:
            caller = original.meta.get("stack_trace")
            if caller and original.op == "call_function" and _operator_name(original) == _operator_name(node):
                return f", called at {caller.strip()}"
    return ""


class _ShallowSource(traceback.NodeSource):
    """Where a node comes from, without the history of every pass before: copying that takes a sixth of an export."""

    def __init__(
        self,
        node: fx.Node | None,
        pass_name: str = "",
        action: traceback.NodeSourceAction | list[traceback.NodeSourceAction] | None = None,
    ) -> None:
        super().__init__(None, pass_name, action)


@contextmanager
def _exporting() -> Iterator[None]:
    """Exporting without warnings, which concern ExecuTorch's own imports, and without idle work."""
    quiet, collecting = logging.root.manager.disable, gc.isenabled()
    logging.disable(logging.WARNING)
    gc.disable()
    try:
        with warnings.catch_warnings(), patch.object(traceback, "NodeSource", _ShallowSource):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(quiet)
        if collecting:
            gc.enable()

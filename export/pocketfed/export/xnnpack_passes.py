"""Preparing a lowered graph for XNNPACK without tracing it again.

ExecuTorch runs seventeen passes over every delegated graph, and each but one traces all of it. To a graph of products,
elementwise operators and moves of memory only two things happen in them: an activation is fused into the operator before it,
and a product with a transposed matrix becomes `linear`. Those two are done here in place, and an average over pixels
that lie channels last already is left to find them there; all other graphs go through ExecuTorch's passes. Writing a graph down looks up the same few types again for every operator: they are
remembered. Private to ExecuTorch; tests/export/test_xnnpack_passes.py says when it changed.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any
from unittest.mock import patch

from torch import fx
from torch.export import ExportedProgram

from pocketfed.export.edge_dialect import COPIES, PLAIN

SIMPLE = frozenset(str(COPIES.get(operator, operator)) for operator in PLAIN)
"""Operators for which the two rewrites are all that ExecuTorch's passes do."""

# A concatenation of more parts is taken apart by one of ExecuTorch's passes.
MOST_PARTS = 5


def is_simple(program: ExportedProgram) -> bool:
    """Whether two rewrites in place do what ExecuTorch's passes do to a delegate's graph."""
    inputs = set(program.graph_signature.user_inputs)
    constant = {node for node in program.graph.find_nodes(op="placeholder") if node.name not in inputs}
    return all(_is_simple(node, constant) for node in program.graph.nodes if node.op == "call_function")


def _is_simple(node: fx.Node, constant: set[fx.Node]) -> bool:
    name = getattr(node.target, "__name__", "")
    parts: Any = node.args[0] if name == "aten.cat.default" else ()
    folds = constant.issuperset(node.all_input_nodes)
    averages = name != "aten.mean.dim" or _averages_channels_last(node)
    return name in SIMPLE and len(parts) <= MOST_PARTS and not folds and averages


def _averages_channels_last(node: fx.Node) -> bool:
    """Whether a mean over [n, c, h, w] could as well read the pixels [n, h, w, c] behind a permutation.

    All that knows the order of its result, [n, c, 1, 1] or [n, 1, 1, c], must be reshapes.
    """
    permuted: Any = node.args[0]
    return (
        getattr(permuted.target, "__name__", "") == "aten.permute_copy.default"
        and list(permuted.args[1]) == [0, 3, 1, 2]
        and permuted.args[0].op == "call_function"
        and all(getattr(user.target, "__name__", "") == "aten.view_copy.default" for user in node.users)
    )


@contextmanager
def passes_in_place() -> Iterator[None]:
    """While this is open, XNNPACK's preprocessing prepares simple graphs in place, and looks up types once."""
    from executorch.backends.xnnpack import xnnpack_preprocess
    from executorch.exir._serialize import _dataclass

    stock = xnnpack_preprocess.XNNPACKPassManager

    def manager(program: ExportedProgram, passes: Any = None) -> Any:
        if passes is None and is_simple(program):
            return _InPlace(program)
        return stock(program, passes)

    with (
        patch.object(xnnpack_preprocess, "XNNPACKPassManager", manager),
        patch.object(_dataclass, "get_type_hints", cache(_dataclass.get_type_hints)),
    ):
        yield


class _InPlace:
    """What XNNPACK's preprocessing asks of a pass manager."""

    def __init__(self, program: ExportedProgram) -> None:
        self._program = program

    def transform(self) -> ExportedProgram:
        from executorch.backends.transforms.addmm_mm_to_linear import apply_addmm_mm_to_linear_transform

        apply_addmm_mm_to_linear_transform(self._program.graph)
        _read_channels_last(self._program.graph)
        _fusing_activations()(self._program).call(self._program.graph_module)
        return self._program


def _read_channels_last(graph: fx.Graph) -> None:
    """Averages read [n, h, w, c] itself, which is the order that their node is written down in."""
    for node in graph.nodes:
        if getattr(node.target, "__name__", "") == "aten.mean.dim":
            permuted: Any = node.args[0]
            node.replace_input_with(permuted, permuted.args[0])
    graph.eliminate_dead_code()


@cache
def _fusing_activations() -> Any:
    """ExecuTorch's pass that fuses activations, without the tracing it ends with."""
    from executorch.backends.xnnpack._passes.fuse_activation_pass import FuseActivationPass
    from executorch.backends.xnnpack._passes.xnnpack_pass import XNNPACKPass
    from executorch.exir.pass_base import PassResult

    class NotTracing(XNNPACKPass):  # type: ignore[misc, unused-ignore]
        def call(self, graph_module: fx.GraphModule) -> Any:
            return PassResult(graph_module, False)

    class Fusing(FuseActivationPass, NotTracing):  # type: ignore[misc, unused-ignore]
        pass

    return Fusing

"""Partitioners get the same answers from bits as from their sets; fails loudly when they ask another way."""

import inspect
import re
import warnings
from types import ModuleType

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import fx

from pocketfed.export import dependencies
from pocketfed.export.dependencies import Dependencies
from pocketfed.export.executorch import build_program
from pocketfed.export.lowering import lower

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # ExecuTorch's own imports use deprecated functions
    from executorch.exir.backend.canonical_partitioners import group_partitioner
    from torch.fx.passes.infra import partitioner


@st.composite
def graphs(draw: st.DrawFn) -> fx.GraphModule:
    """Sums of earlier results, some of which nobody uses."""
    graph = fx.Graph()
    nodes = [graph.placeholder("x")]
    for _ in range(draw(st.integers(0, 40))):
        parts = [nodes[draw(st.integers(0, len(nodes) - 1))] for _ in range(2)]
        nodes.append(graph.call_function(torch.add, (parts[0], parts[1])))
    graph.output(nodes[-1])
    return fx.GraphModule(torch.nn.Module(), graph)


@given(graphs())
def test_the_same_nodes_depend_on_a_node(module: fx.GraphModule) -> None:
    ours = Dependencies(module)
    for stock in (partitioner._DependencyViewer(module), group_partitioner._DependencyViewer(module)):
        for node in module.graph.nodes:
            wanted, found = stock.downstreams_of(node), ours.downstreams_of(node)
            assert set(found) == wanted
            assert len(found) == len(wanted)
            assert all((other in found) == (other in wanted) for other in module.graph.nodes)


def test_what_came_to_a_graph_later_has_nothing_that_depends_on_it() -> None:
    module = fx.symbolic_trace(torch.nn.ReLU())
    ours = Dependencies(module)
    with module.graph.inserting_before(next(iter(module.graph.nodes))):
        late = module.graph.placeholder("late")
    assert not ours.downstreams_of(late)
    assert all(late not in ours.downstreams_of(node) for node in module.graph.nodes)


@pytest.mark.parametrize("module", [partitioner, group_partitioner])
def test_partitioners_ask_for_nothing_else(module: ModuleType) -> None:
    asked = set(re.findall(r"self\.dependency_viewer\.(\w+)", inspect.getsource(module)))
    assert asked == {"downstreams_of"}, f"{module.__name__} asks for {asked or 'nothing any more'}"


def test_an_export_uses_it_and_leaves_theirs_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    graphs = []

    class Noting(Dependencies):
        def __init__(self, graph_module: fx.GraphModule) -> None:
            graphs.append(graph_module)
            super().__init__(graph_module)

    monkeypatch.setattr(dependencies, "Dependencies", Noting)
    inputs = (torch.ones(3, 3),)
    build_program({"square": (lower(lambda a: (torch.relu(a @ a),), inputs), inputs)})
    assert graphs
    assert not issubclass(partitioner._DependencyViewer, Dependencies)
    assert not issubclass(group_partitioner._DependencyViewer, Dependencies)

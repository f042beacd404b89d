"""The direct way to the edge dialect against ExecuTorch's own; fails loudly when that changes."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram

from pocketfed.export import executorch
from pocketfed.export.edge_dialect import PLAIN, edge_program, idle_program, is_plain
from pocketfed.export.inspection import inspect_program
from pocketfed.export.lowering import lower
from pocketfed.export.lowering.graph.averages import MIN_AVERAGED
from pocketfed.mobile_client.runtime import ExecutorchRuntime
from tests.export.stock import stock_edge_program

aten = torch.ops.aten
Function = Callable[..., tuple[Tensor, ...]]


def calls(program: ExportedProgram) -> list[tuple[str, str, tuple[int, ...], torch.dtype]]:
    """Operators in order, with what they take and give; copies that only change strides are left out."""
    names: dict[fx.Node, str] = {}
    constants: dict[str, Tensor] = program.state_dict
    buffers = program.graph_signature.inputs_to_buffers
    listed: list[tuple[str, str, tuple[int, ...], torch.dtype]] = []
    for node in program.graph.nodes:
        if node.op == "placeholder":
            names[node] = str(constants[buffers[node.name]].tolist()) if node.name in buffers else node.name
        elif node.op == "call_function" and node.target.__name__.endswith("_clone_dim_order.default"):
            names[node] = names[node.args[0]]
        elif node.op == "call_function":
            names[node] = f"%{len(listed)}"
            given = str(fx.map_arg((node.args, node.kwargs), names.__getitem__))
            value = node.meta["val"]
            listed.append((node.target.__name__, given, tuple(value.shape), value.dtype))
    return listed


def products(a: Tensor, b: Tensor, photos: Tensor) -> tuple[Tensor, ...]:
    x = photos.to(torch.float32).permute(0, 2, 1) * (1.0 / 255.0) - 0.5  # [2, 3, 4]
    rows = torch.cat([(x.reshape(6, 4) @ a)[1:5], 2 / (b.exp() + 1.0)], 1)  # [4, 8]
    padded = torch.constant_pad_nd(torch.relu(rows), [0, 0, 1, 1])  # [6, 8]
    batches = torch.bmm(padded.reshape(2, 6, 4), torch.stack([a, b], 1).permute(1, 0, 2))
    sums = torch.ones(1, 8) @ (rows.reshape(8, 4, 1) * torch.ones(MIN_AVERAGED // 32)).reshape(8, -1)
    return batches, torch.nn.functional.linear(rows.reshape(8, 4), a), 3.0 - a.mean(), sums


PRODUCTS = (torch.randn(4, 4), torch.randn(4, 4), torch.randint(0, 256, (2, 4, 3), dtype=torch.uint8))


def elementwise(a: Tensor, b: Tensor) -> tuple[Tensor, ...]:
    one: list[Callable[[Tensor], Tensor]] = [
        torch.relu, torch.abs, torch.neg, torch.exp, torch.log, torch.sqrt, torch.rsqrt, torch.sigmoid, torch.tanh,
        torch.floor, torch.ceil, torch.sin, torch.cos, nn.functional.hardtanh, nn.functional.leaky_relu,
        lambda x: torch.clamp(x, None, 0.8),
    ]  # fmt: skip
    two: list[Callable[[Tensor, Tensor], Tensor]] = [
        torch.add,
        torch.sub,
        torch.mul,
        torch.div,
        torch.maximum,
        torch.minimum,
    ]
    return (*(function(a) for function in one), *(function(a, b) for function in two))


ELEMENTWISE = (torch.rand(3, 4) + 0.1, torch.rand(3, 4) + 0.1)

CASES = pytest.mark.parametrize(
    ("function", "inputs"),
    [(products, PRODUCTS), (elementwise, ELEMENTWISE)],
    ids=["products", "elementwise"],
)


@CASES
def test_the_program_is_the_one_that_executorch_makes(function: Function, inputs: tuple[Tensor, ...]) -> None:
    module = lower(function, inputs)
    assert is_plain(module)
    assert calls(edge_program(module)) == calls(stock_edge_program(module, inputs, [aten.linear.default]))


def test_every_plain_operator_is_compared_with_executorchs() -> None:
    graphs = [lower(products, PRODUCTS).graph, lower(elementwise, ELEMENTWISE).graph]
    compared = {node.target for graph in graphs for node in graph.nodes if node.op == "call_function"}
    assert compared >= PLAIN


@CASES
def test_both_ways_give_one_delegate_and_the_same_numbers(
    function: Function, inputs: tuple[Tensor, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    methods = {"forward": (lower(function, inputs), inputs)}
    direct = executorch.build_program(methods)
    monkeypatch.setattr(executorch, "is_plain", lambda module: False)
    stock = executorch.build_program(methods)
    parts = inspect_program(direct.buffer)
    assert parts == inspect_program(stock.buffer)
    assert len(parts["forward"].delegates) == 1
    arrays = [tensor.numpy() for tensor in inputs]
    ours, theirs = (ExecutorchRuntime(program.buffer).run("forward", arrays) for program in (direct, stock))
    for mine, other, expected in zip(ours, theirs, function(*inputs), strict=True):
        assert np.array_equal(mine, other)
        np.testing.assert_allclose(mine, expected.numpy(), rtol=1e-4, atol=1e-5)


def test_numbers_are_shared_constants() -> None:
    program = edge_program(lower(lambda x: (0.5 * x, (x + 0.5) * 0.5), (torch.ones(3),)))
    assert [float(value) for value in program.state_dict.values()] == [0.5]


@pytest.mark.parametrize(
    "function",
    [
        lambda x: (torch.sort(x * 2.0)[0],),
        lambda x: (torch.cumsum(x, 0),),
        lambda x: (x.to(torch.int32),),
        lambda x: (x.to(torch.float64) * 2.0,),
    ],
)
def test_other_operators_and_types_are_not_plain(function: Function) -> None:
    assert not is_plain(lower(function, (torch.ones(3),)))


def test_modules_and_graphs_without_sizes_are_not_plain() -> None:
    assert not is_plain(nn.ReLU())
    assert not is_plain(fx.symbolic_trace(nn.Sequential(nn.ReLU())))


def test_an_idle_program_has_the_same_inputs_and_outputs() -> None:
    program = edge_program(lower(products, PRODUCTS))
    idle = idle_program(program)
    assert idle.graph_signature.user_inputs == program.graph_signature.user_inputs
    outputs: Any = idle.module()(*PRODUCTS)
    assert [output.shape for output in outputs] == [output.shape for output in products(*PRODUCTS)]

"""What the graph rewrites leave behind."""

import math
from dataclasses import fields, replace
from functools import reduce
from unittest.mock import patch

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from pocketfed.core.errors import ExportError
from pocketfed.export.lowering import Passes, lower
from pocketfed.export.lowering.graph import averages
from pocketfed.export.lowering.graph.averages import MIN_AVERAGED
from pocketfed.export.lowering.graph.layout import split
from pocketfed.export.lowering.operators.reductions import column_means
from tests.export.lowering.checks import assert_lowers, targets, with_gradients

ONE_OFF = [replace(Passes(), **{field.name: False}) for field in fields(Passes)]
ALL_OFF = Passes(**{field.name: False for field in fields(Passes)})


class Network(nn.Module):
    """A little of everything that the passes treat differently."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1, bias=False)
        self.norm = nn.GroupNorm(2, 6)
        self.depthwise = nn.Conv2d(6, 6, 3, padding=1, groups=6)
        self.down = nn.Conv2d(6, 64, 3, stride=2, padding=1)
        self.wide = nn.Conv2d(64, 64, 3, padding=1, bias=False)
        self.head = nn.Linear(64, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.stem(x)))
        x = self.down(x + self.depthwise(x))
        x = x + F.relu(self.wide(x))
        logits: Tensor = self.head(x.mean((2, 3)))
        return logits


def training_step(seed: int) -> tuple[object, list[Tensor]]:
    torch.manual_seed(seed)
    network = Network()
    names = [name for name, _ in network.named_parameters()]
    weights = [parameter.detach().clone() for parameter in network.parameters()]

    def loss(x: Tensor, *parameters: Tensor) -> Tensor:
        logits = torch.func.functional_call(network, dict(zip(names, parameters, strict=True)), (x,))
        return -F.log_softmax(logits, 1)[:, 0].mean()

    return loss, [torch.randn(2, 3, 4, 4), *weights]


@pytest.mark.parametrize("passes", [Passes(), *ONE_OFF, ALL_OFF], ids=str)
def test_a_step_is_right_with_any_pass_switched_off(passes: Passes) -> None:
    loss, inputs = training_step(0)
    assert callable(loss)
    assert_lowers(with_gradients(loss), inputs, passes, tolerance=5e-5)


def test_permutations_between_layers_cancel() -> None:
    def layers(x: Tensor, first: Tensor, second: Tensor) -> tuple[Tensor]:
        y = F.relu(F.group_norm(F.conv2d(x, first, padding=1), 2))
        y = y + F.relu(F.group_norm(F.conv2d(y, second, padding=1), 2))
        return (y.mean((2, 3)),)

    inputs = (torch.randn(2, 8, 6, 6), torch.randn(8, 8, 3, 3), torch.randn(8, 8, 3, 3))
    plain = targets(lower(layers, inputs, Passes(cancel_permutes=False))).count("aten.permute.default")
    cancelled = targets(lower(layers, inputs)).count("aten.permute.default")
    assert cancelled == 3 < plain  # the input and the two kernels


def test_a_transposed_right_side_becomes_a_linear_operator() -> None:
    def product(a: Tensor, b: Tensor) -> tuple[Tensor]:
        return (a @ b.t(),)

    inputs = (torch.randn(3, 4), torch.randn(5, 4))
    assert targets(lower(product, inputs)) == ["aten.linear.default"]
    without = targets(lower(product, inputs, Passes(linear_from_mm=False)))
    assert without == ["aten.permute.default", "aten.mm.default"]


@pytest.mark.parametrize("enabled", [True, False])
def test_between_products_elementwise_operators_stay_on_matrices(enabled: bool) -> None:
    def perceptron(x: Tensor, first: Tensor, bias: Tensor, second: Tensor) -> tuple[Tensor]:
        hidden = (x @ first).reshape(3, 4, 16) + bias
        return ((torch.sigmoid(hidden) * hidden * 2.0).reshape(12, 16) @ second,)

    inputs = [torch.randn(12, 8), torch.randn(8, 16), torch.randn(16), torch.randn(16, 5)]
    module = assert_lowers(perceptron, inputs, Passes(activations_on_matrices=enabled))
    assert targets(module).count("aten.reshape.default") == (0 if enabled else 2)


def test_elementwise_operators_on_other_sizes_stay_where_they_are() -> None:
    """One operand is no matrix, or what is broadcast is no row."""

    def function(x: Tensor, y: Tensor, column: Tensor) -> tuple[Tensor, Tensor]:
        image = (x @ torch.ones(8, 16)).reshape(3, 4, 16)
        return image + y, torch.exp(image * column)

    assert_lowers(function, [torch.randn(12, 8), torch.randn(3, 4, 16), torch.randn(3, 4, 1)])


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 3), st.floats(-2.0, 2.0, width=32))
def test_sums_over_rows_become_averages(rows: int, columns: int, height: int, weight: float) -> None:
    def summed(x: Tensor) -> Tensor:  # [height, rows, columns] -> [1, columns]
        return torch.full((1, height * rows), weight) @ torch.exp(x).reshape(-1, columns)

    x = torch.randn(height, rows, columns)
    with patch.object(averages, "MIN_AVERAGED", 1):
        module = assert_lowers(with_gradients(summed), [x])
    assert targets(module).count("aten.mean.dim") == 1
    assert "aten.mean.dim" not in targets(assert_lowers(with_gradients(summed), [x]))


@pytest.mark.parametrize("rows", [1, 3, 49, 64, 1536])
def test_a_mean_over_rows_is_an_average_and_no_more(rows: int) -> None:
    with patch.object(averages, "MIN_AVERAGED", 1):
        module = assert_lowers(lambda x: (column_means(x),), [torch.randn(rows, 3)])
    assert "aten.mean.dim" in targets(module)
    assert "aten.mul.Tensor" not in targets(module)


def test_only_a_row_of_equal_weights_is_an_average() -> None:
    x = torch.randn(2, MIN_AVERAGED)
    for left in (torch.tensor([[1.0, 2.0]]), torch.ones(2, 2)):
        assert targets(assert_lowers(lambda x, left=left: (left @ x,), [x])) == ["aten.mm.default"]
    assert targets(assert_lowers(lambda x: (x[:1, :2] @ x,), [x])).count("aten.mm.default") == 1


def test_equal_expressions_are_computed_once() -> None:
    def twice(x: Tensor) -> tuple[Tensor]:
        return (torch.exp(x) * torch.exp(x),)

    assert targets(lower(twice, (torch.randn(3),))) == ["aten.exp.default", "aten.mul.Tensor"]
    assert len(targets(lower(twice, (torch.randn(3),), Passes(common_subexpressions=False)))) == 3


def test_constants_are_computed_now() -> None:
    def masked(x: Tensor) -> tuple[Tensor]:
        eye = torch.eye(4)
        mask = torch.cat([eye[2:], eye[:2]]) * (1.0 - eye) + torch.arange(4).to(torch.float32).cumsum(0)
        return (x * mask,)

    module = assert_lowers(masked, [torch.randn(4, 4)])
    assert targets(module) == ["aten.mul.Tensor"]


def test_a_broadcast_is_left_to_the_operator_that_uses_it() -> None:
    def scaled(x: Tensor, scale: Tensor) -> tuple[Tensor]:
        return ((scale.unsqueeze(1).expand(3, 4) * 2.0 + 1.0) * x,)

    module = assert_lowers(scaled, [torch.randn(3, 4), torch.randn(3)])
    sizes = [list(node.meta["val"].shape) for node in module.graph.nodes if node.op == "call_function"]
    assert sizes.count([3, 4]) == 1


def test_two_inputs_that_are_one_tensor_stay_two_inputs() -> None:
    same = torch.ones(3)
    module = lower(lambda a, b: (a - b,), (same, same))
    assert torch.equal(module(torch.ones(3), torch.zeros(3))[0], torch.ones(3))


def test_random_numbers_inside_the_step_are_refused() -> None:
    with pytest.raises(ExportError, match="random"):
        lower(lambda x: (x + torch.rand(3),), (torch.zeros(3),))


def test_writing_into_an_input_is_refused() -> None:
    with pytest.raises(ExportError, match="writes into"):
        lower(lambda x: (x.add_(1.0),), (torch.zeros(3),))


def test_a_decision_on_values_is_refused() -> None:
    with pytest.raises(ExportError, match="value of a tensor"):
        lower(lambda x: (x if x.sum() > 0 else -x,), (torch.zeros(3),))


@settings(deadline=None, max_examples=200)
@given(st.permutations(range(5)), st.lists(st.integers(1, 3), min_size=5, max_size=5))
def test_split_permutations_make_the_whole(order: list[int], sizes: list[int]) -> None:
    x = torch.arange(math.prod(sizes)).reshape(sizes)
    steps = split(sizes, order)
    assert len(steps) <= 2
    assert torch.equal(reduce(torch.permute, steps, x), x.permute(order))


def test_a_reversal_is_two_transpositions() -> None:
    assert split([16, 16, 64, 32], [3, 2, 0, 1]) == [(3, 0, 1, 2), (0, 3, 1, 2)]
    assert split([32, 64, 16, 16], [2, 3, 1, 0]) == [(0, 2, 3, 1), (1, 2, 3, 0)]
    assert split([16, 16, 64, 32], [3, 0, 1, 2]) == [(3, 0, 1, 2)]
    assert split([64, 256, 48], [0, 2, 1]) == [(0, 2, 1)]


@pytest.mark.parametrize("enabled", [True, False])
def test_large_reversals_are_split(enabled: bool) -> None:
    x = torch.randn(32, 20, 30)
    module = assert_lowers(
        lambda x: (torch.exp(x).permute(2, 1, 0).reshape(-1) + 1.0,), [x], Passes(split_permutes=enabled)
    )
    assert targets(module).count("aten.permute.default") == (2 if enabled else 1)


def test_operands_in_different_orders_meet_spatial_first() -> None:
    """A depthwise convolution's gradient and a mask: only the gradient is permuted."""

    def step(masks: Tensor, planes: Tensor) -> tuple[Tensor]:
        mask = torch.exp(masks).permute(2, 3, 0, 1)  # stored [H, W, N, C]
        gradient = torch.exp(planes).permute(1, 0, 2, 3)  # stored [C, N, H, W]
        return (torch.relu(gradient * mask).permute(2, 3, 0, 1).reshape(-1),)

    module = assert_lowers(step, [torch.randn(4, 5, 2, 3), torch.randn(3, 2, 4, 5)])
    assert targets(module).count("aten.permute.default") == 1

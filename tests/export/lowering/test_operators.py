"""One contract for every operator that networks use: the lowered output and gradients equal PyTorch's."""

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pocketfed.core.errors import ExportError
from pocketfed.export.lowering import Passes, lower
from pocketfed.export.lowering.graph.elementwise import BINARY, UNARY
from tests.export.lowering.checks import assert_lowers, targets, with_gradients

MOVES = {"reshape.default", "permute.default", "slice.Tensor", "cat.default", "constant_pad_nd.default"}
PRODUCTS = {"mm.default", "bmm.default", "linear.default"}
DELEGATED = {str(target) for target in UNARY | BINARY} | {
    f"aten.{name}" for name in MOVES | PRODUCTS | {"_softmax.default"}
}

WEIGHT = torch.linspace(0.5, 2.0, 8)
BIAS = torch.linspace(-1.0, 1.0, 8)


def attention(x: Tensor) -> Tensor:
    """[n, tokens, 8] -> the same, one head with explicit products."""
    scores = torch.bmm(x, x.transpose(1, 2)) / math.sqrt(x.shape[2])
    return torch.bmm(torch.softmax(scores, dim=2), x)


def split_and_weigh(x: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=1)
    return torch.stack([first, second * 2.0]).unbind(0)[1] + first[:, :, ::2].repeat_interleave(2, dim=2)


IMAGE = (4, 8, 6, 6)
OPERATORS: dict[str, tuple[Callable[[Tensor], Tensor], tuple[int, ...]]] = {
    "relu": (F.relu, IMAGE),
    "relu6": (lambda x: F.relu6(x * 4), IMAGE),
    "leaky relu": (F.leaky_relu, IMAGE),
    "elu": (F.elu, IMAGE),
    "silu": (F.silu, IMAGE),
    "gelu": (F.gelu, IMAGE),
    "gelu, tanh form": (lambda x: F.gelu(x, approximate="tanh"), IMAGE),
    "hardswish": (lambda x: F.hardswish(x * 3), IMAGE),
    "hard sigmoid": (lambda x: F.hardsigmoid(x * 3), IMAGE),
    "sigmoid": (torch.sigmoid, IMAGE),
    "tanh": (torch.tanh, IMAGE),
    "abs": (torch.abs, IMAGE),
    "clamp": (lambda x: x.clamp(-0.5, 0.7), IMAGE),
    "powers": (lambda x: x**2 + x**3 + (x.abs() + 1) ** 0.5 + (x.abs() + 1) ** -0.5, IMAGE),
    "where": (lambda x: torch.where(x > 0.2, x * 2.0, -x), IMAGE),
    "erf": (torch.erf, IMAGE),
    "group norm": (lambda x: F.group_norm(x, 4, WEIGHT, BIAS), IMAGE),
    "group norm, one group": (lambda x: F.group_norm(x, 1), (4, 8, 3, 1)),
    "one number, spread and reshaped": (lambda x: x * x.sum().expand(2, 3, 4).reshape(6, 4), (6, 4)),
    "group norm, no affine": (lambda x: F.group_norm(x + 3.0, 2), IMAGE),
    "group norm of sequences": (lambda x: F.group_norm(x, 4, WEIGHT, BIAS), (3, 8, 9)),
    "instance norm": (lambda x: F.instance_norm(x), IMAGE),
    "layer norm": (lambda x: F.layer_norm(x, (8,), WEIGHT, BIAS), (4, 5, 8)),
    "layer norm of images": (lambda x: F.layer_norm(x, (8, 6, 6)), IMAGE),
    "batch norm": (lambda x: F.batch_norm(x, None, None, WEIGHT, BIAS, training=True), IMAGE),
    "batch norm of rows": (lambda x: F.batch_norm(x, None, None, WEIGHT, BIAS, training=True), (16, 8)),
    "batch norm, running statistics": (lambda x: F.batch_norm(x, BIAS, WEIGHT, WEIGHT, BIAS), IMAGE),
    "average pooling": (lambda x: F.avg_pool2d(x, 2), IMAGE),
    "average pooling, padded": (lambda x: F.avg_pool2d(x, 3, 2, 1), IMAGE),
    "average pooling, padding not counted": (
        lambda x: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False),
        IMAGE,
    ),
    "adaptive average pooling": (lambda x: F.adaptive_avg_pool2d(x, (3, 2)), IMAGE),
    "global average pooling": (lambda x: F.adaptive_avg_pool2d(x, 1), IMAGE),
    "max pooling": (lambda x: F.max_pool2d(x, 2), IMAGE),
    "max pooling, padded": (lambda x: F.max_pool2d(x, 3, 2, 1), IMAGE),
    "max pooling with ties": (lambda x: F.max_pool2d(F.relu(x), 3, 2, 1), IMAGE),
    "mean over space": (lambda x: x.mean((2, 3)), IMAGE),
    "mean over channels": (lambda x: x.mean(1, keepdim=True), IMAGE),
    "mean of all": (lambda x: x.mean(), IMAGE),
    "sum over the batch": (lambda x: x.sum(0), IMAGE),
    "variance": (lambda x: x.var(1), IMAGE),
    "softmax": (lambda x: torch.softmax(x, 1), (6, 8)),
    "log softmax": (lambda x: F.log_softmax(x, 1), (6, 8)),
    "attention": (attention, (3, 5, 8)),
    "attention, PyTorch's": (lambda x: F.scaled_dot_product_attention(x, x * 0.5, x + 1.0), (2, 3, 5, 8)),
    "attention, causal": (
        lambda x: F.scaled_dot_product_attention(x, x, x, is_causal=True, scale=0.3),
        (2, 3, 5, 8),
    ),
    "norm after pooling": (
        lambda x: F.layer_norm(x.mean((2, 3), keepdim=True).permute(0, 2, 3, 1), (8,)).permute(0, 3, 1, 2),
        IMAGE,
    ),
    "grouped channels shuffled": (
        lambda x: x.reshape(4, 2, 4, 6, 6).transpose(1, 2).reshape(4, 8, 6, 6) * 2.0,
        IMAGE,
    ),
    "normalise": (lambda x: F.normalize(x, dim=1), (6, 8)),
    "linear": (lambda x: F.linear(x, torch.outer(BIAS, WEIGHT), BIAS), (6, 8)),
    "linear on sequences": (lambda x: F.linear(x, torch.outer(BIAS, WEIGHT), BIAS), (3, 5, 8)),
    "select and flip by slices": (lambda x: torch.cat([x[:, 4:], x[:, :4]], 1)[:, 1], IMAGE),
    "split, stack, unbind, step": (split_and_weigh, (2, 8, 6)),
    "row maximum": (lambda x: x - x.amax(1, keepdim=True).detach(), (6, 7)),
    "masked fill": (lambda x: x.masked_fill(torch.eye(6, 8, dtype=torch.bool), -3.0), (6, 8)),
    "broadcast": (lambda x: x.unsqueeze(1).expand(6, 3, 8).reshape(18, 8) * 2.0, (6, 8)),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_operator(name: str) -> None:
    function, sizes = OPERATORS[name]
    x = torch.randn(sizes, generator=torch.Generator().manual_seed(len(name)))
    module = assert_lowers(with_gradients(function), [x])
    assert set(targets(module)) <= DELEGATED


@pytest.mark.parametrize("name", ["group norm", "group norm, no affine"])
def test_group_norm_by_rows(name: str) -> None:
    function, sizes = OPERATORS[name]
    assert_lowers(with_gradients(function), [torch.randn(sizes)], Passes(spatial_first_norm=False))


@pytest.mark.parametrize(
    ("name", "function", "sizes"),
    [
        ("relu", F.relu, (3,)),
        ("relu6", F.relu6, (3,)),
        ("hardswish", lambda x: F.hardswish(x + torch.tensor([-3.0, 3.0, -1e9, 1e9, 2.9999998])), (5,)),
        ("max pooling", lambda x: F.max_pool2d(x, 2), (1, 1, 2, 2)),
    ],
)
def test_gradient_at_the_corner(
    name: str, function: Callable[[Tensor], Tensor], sizes: tuple[int, ...]
) -> None:
    """Where an activation has a corner, and where maxima tie, we choose as PyTorch does."""
    assert_lowers(with_gradients(function), [torch.zeros(sizes)])


def test_attention_with_a_mask() -> None:
    mask = torch.randn(5, 5)
    inputs = [torch.randn(2, 3, 5, 8), torch.randn(2, 3, 5, 8), torch.randn(2, 3, 5, 8)]
    assert_lowers(
        with_gradients(lambda q, k, v: F.scaled_dot_product_attention(q, k, v, attn_mask=mask)), inputs
    )


def test_attention_with_dropout_is_refused() -> None:
    with pytest.raises(ExportError, match="random"):
        lower(lambda x: (F.scaled_dot_product_attention(x, x, x, dropout_p=0.1),), (torch.randn(1, 1, 2, 4),))


def test_norm_gradients_of_all_arguments() -> None:
    inputs = [torch.randn(3, 8, 5, 4), torch.randn(8), torch.randn(8)]
    assert_lowers(with_gradients(lambda x, w, b: F.group_norm(x, 2, w, b)), inputs)
    assert_lowers(with_gradients(lambda x, w, b: F.batch_norm(x, None, None, w, b, training=True)), inputs)
    inputs = [torch.randn(3, 5, 8), torch.randn(8), torch.randn(8)]
    assert_lowers(with_gradients(lambda x, w, b: F.layer_norm(x, (8,), w, b)), inputs)


@pytest.mark.parametrize("mean", [0.0, 1000.0, -1000.0])
def test_group_norm_far_from_zero(mean: float) -> None:
    """A mean of a thousand deviations costs the digits that it takes from the input, in float32, and no more."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, 8, 6, 6, generator=generator) + mean
    weight, bias = torch.randn(8, generator=generator), torch.randn(8, generator=generator)
    step = with_gradients(lambda x, w, b: F.group_norm(x, 4, w, b))
    exact = step(x.double(), weight.double(), bias.double())
    for actual, reference in zip(lower(step, (x, weight, bias))(x, weight, bias), exact, strict=True):
        scale = float(reference.abs().max())
        torch.testing.assert_close(actual.double() / scale, reference / scale, rtol=0, atol=5e-4)


@pytest.mark.parametrize(
    "function", [lambda x: F.avg_pool2d(x, 2, ceil_mode=True), lambda x: F.adaptive_avg_pool2d(x, 4)]
)
def test_uneven_pooling_is_refused(function: Callable[[Tensor], Tensor]) -> None:
    with pytest.raises(ExportError, match="avg_pool2d"):
        lower(lambda x: (function(x),), (torch.randn(1, 2, 7, 7),))

"""Every way through a convolution against PyTorch's own, forward and all three gradients."""

from dataclasses import dataclass
from unittest.mock import patch

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from pocketfed.core.errors import ExportError
from pocketfed.export.lowering.operators import convolution as methods
from pocketfed.export.lowering.operators import depthwise, stem, winograd
from pocketfed.export.lowering.operators.axes import spatial_first
from pocketfed.export.lowering.operators.convolution import (
    DEPTHWISE,
    GENERAL,
    HALF_IM2COL,
    STEM,
    WINOGRAD,
    Method,
    convolution,
    convolution_backward,
)
from pocketfed.export.lowering.operators.geometry import Geometry, Pair, geometry
from pocketfed.export.lowering.options import Passes

PAIRS = st.tuples(st.integers(1, 3), st.integers(1, 3))


@dataclass(frozen=True)
class Case:
    """A convolution with data."""

    x: Tensor
    weight: Tensor
    bias: Tensor
    grad: Tensor
    g: Geometry


def make_case(g: Geometry, seed: int) -> Case:
    generator = torch.Generator().manual_seed(seed)

    def normal(*sizes: int) -> Tensor:
        return torch.randn(sizes, generator=generator)

    return Case(
        normal(g.batch, g.in_channels, *g.size),
        normal(g.out_channels, g.in_channels // g.groups, *g.kernel),
        normal(g.out_channels),
        normal(g.batch, g.out_channels, *g.output),
        g,
    )


@st.composite
def cases(draw: st.DrawFn, kind: str = "any") -> Case:
    """Convolutions of all shapes; `kind` is "dense", "depthwise", "few channels", "winograd" or "any"."""
    groups, per_group, outputs = draw(st.sampled_from([(1, 6, 5), (1, 2, 3), (4, 1, 1), (2, 3, 2)]))
    kernel, stride, dilation = draw(PAIRS), draw(PAIRS), draw(PAIRS)
    if kind == "dense":
        groups, per_group, outputs = 1, draw(st.integers(1, 7)), draw(st.integers(1, 7))
    elif kind == "few channels":
        groups, per_group, outputs = 1, draw(st.integers(1, stem.MAX_CHANNELS)), draw(st.integers(1, 7))
    elif kind == "depthwise":
        groups, per_group, outputs = draw(st.integers(2, 5)), 1, 1
        kernel = (draw(st.integers(1, 7)), draw(st.integers(1, 7)))
    padding = (draw(st.integers(0, kernel[0])), draw(st.integers(0, kernel[1])))
    if kind == "winograd":
        groups, per_group, outputs = 1, 64, 64
        kernel, stride, dilation, padding = (3, 3), (1, 1), (1, 1), (1, 1)
    size = (draw(st.integers(1, 11)), draw(st.integers(1, 11)))
    g = Geometry(
        draw(st.integers(1, 3)),
        groups * per_group,
        groups * outputs,
        groups,
        size,
        kernel,
        stride,
        padding,
        dilation,
    )
    assume(min(g.output) > 0)
    return make_case(g, draw(st.integers(0, 99)))


def expected(case: Case) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """PyTorch's output and gradients of x, weight and bias."""
    g = case.g
    y = torch.nn.functional.conv2d(case.x, case.weight, case.bias, g.stride, g.padding, g.dilation, g.groups)
    gradients = torch.ops.aten.convolution_backward(
        case.grad, case.x, case.weight, [g.out_channels], g.stride, g.padding, g.dilation, False, [0, 0],
        g.groups, [True, True, True],
    )  # fmt: skip
    return (y, *gradients)


def assert_close(actual: Tensor, reference: Tensor) -> None:
    assert actual.shape == reference.shape
    scale = float(reference.abs().max()) + 1e-6
    torch.testing.assert_close(actual / scale, reference / scale, rtol=0, atol=2e-5)


def assert_method(method: Method, case: Case) -> None:
    y, to_x, to_weight, _ = expected(case)
    grad = spatial_first(case.grad)
    bias = case.bias.reshape(-1, 1, 1)
    assert_close(spatial_first(method.forward(spatial_first(case.x), case.weight, case.g)) + bias, y)
    assert_close(spatial_first(method.grad_input(grad, case.weight, case.g)), to_x)
    assert_close(method.grad_weight(grad, spatial_first(case.x), case.g), to_weight)


@settings(deadline=None, max_examples=40)
@given(cases())
def test_general_taps(case: Case) -> None:
    assert_method(GENERAL, case)


@settings(deadline=None, max_examples=40)
@given(cases("dense"))
def test_half_im2col(case: Case) -> None:
    assert_method(HALF_IM2COL, case)


@settings(deadline=None, max_examples=25)
@given(cases("few channels"))
def test_stem(case: Case) -> None:
    assert_method(STEM, case)


@settings(deadline=None, max_examples=8)
@given(cases("winograd"))
def test_winograd(case: Case) -> None:
    assert winograd.applies(case.g)
    assert_method(WINOGRAD, case)


@settings(deadline=None, max_examples=40)
@given(cases("depthwise"))
def test_depthwise_bands(case: Case) -> None:
    assert depthwise.applies(case.g)
    assert_method(DEPTHWISE, case)


@pytest.mark.parametrize("kernel", [(1, 11), (11, 1), (7, 7)])
def test_depthwise_of_maps_too_large_for_one_plane(kernel: Pair) -> None:
    g = Geometry(2, 3, 3, 3, (14, 18), kernel, (1, 1), (kernel[0] // 2, kernel[1] // 2), (1, 1))
    assert_method(DEPTHWISE, make_case(g, 0))


@settings(deadline=None, max_examples=60)
@given(cases("depthwise"), st.integers(0, 9))
def test_depthwise_blocks_of_any_height(case: Case, place: int) -> None:
    heights = [rows for rows in range(1, case.g.output[0] + 1) if case.g.output[0] % rows == 0]
    rows = heights[place % len(heights)]
    with patch.object(depthwise, "block_rows", lambda g: rows if g == case.g else 1):
        assert_method(DEPTHWISE, case)


def depthwise_geometry(size: Pair, kernel: int, stride: int) -> Geometry:
    return Geometry(
        64, 32, 32, 32, size, (kernel, kernel), (stride, stride), (kernel // 2, kernel // 2), (1, 1)
    )


@settings(deadline=None)
@given(st.tuples(st.integers(1, 40), st.integers(1, 40)), st.sampled_from([1, 3, 5, 7]), st.integers(1, 2))
def test_depthwise_blocks_tile_the_output_with_matrices_of_bounded_size(
    size: Pair, kernel: int, stride: int
) -> None:
    g = depthwise_geometry(size, kernel, stride)
    rows = depthwise.block_rows(g)
    assert g.output[0] % rows == 0
    window = min((rows - 1) * stride + kernel, size[0])
    assert rows == 1 or window * size[1] * rows * g.output[1] <= depthwise.MAX_BAND


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "rows"),
    [((4, 4), 5, 1, 4), ((8, 8), 3, 1, 8), ((8, 12), 3, 1, 8), ((16, 16), 3, 1, 2), ((16, 16), 3, 2, 2),
     ((16, 24), 3, 1, 2), ((2, 2), 5, 2, 1)],
)  # fmt: skip
def test_depthwise_blocks_of_common_layers(size: Pair, kernel: int, stride: int, rows: int) -> None:
    """Whole planes of small maps, a few rows of larger ones."""
    assert depthwise.block_rows(depthwise_geometry(size, kernel, stride)) == rows


@settings(deadline=None, max_examples=40)
@given(cases(), st.booleans(), st.booleans(), st.booleans())
def test_any_convolution_with_any_passes(case: Case, half: bool, phases: bool, bands: bool) -> None:
    passes = Passes(half_im2col=half, strided_phases=phases, depthwise_toeplitz=bands, stem_planes=phases)
    g = case.g
    geometry_arguments = (g.stride, g.padding, g.dilation, False, (0, 0), g.groups)
    y = convolution(passes, case.x, case.weight, case.bias, *geometry_arguments)
    gradients = convolution_backward(
        passes, case.grad, case.x, case.weight, [g.out_channels], *geometry_arguments, [True, True, True]
    )
    for actual, reference in zip((y, *gradients), expected(case), strict=True):
        assert actual is not None
        assert_close(actual, reference)


def test_the_common_layers_take_the_fast_methods() -> None:
    def chosen(inputs: int, outputs: int, stride: int, groups: int = 1) -> Method:
        x, weight = torch.empty(2, inputs, 16, 16), torch.empty(outputs, inputs // groups, 3, 3)
        g = geometry(x, weight, (stride, stride), (1, 1), (1, 1), groups)
        return methods.choose(g, Passes())

    assert chosen(3, 24, 1) is STEM
    assert chosen(24, 64, 2) is HALF_IM2COL
    assert chosen(128, 128, 1) is WINOGRAD
    assert chosen(32, 32, 1, groups=32) is DEPTHWISE
    assert chosen(32, 32, 1, groups=4) is GENERAL


def test_one_dimensional_convolution() -> None:
    x, weight = torch.randn(2, 3, 20), torch.randn(5, 3, 4)
    y = convolution(Passes(), x, weight, None, (2,), (1,), (1,), False, (0,), 1)
    assert_close(y, torch.nn.functional.conv1d(x, weight, stride=2, padding=1))
    grad = torch.randn_like(y)
    arguments = ((2,), (1,), (1,), False, (0,), 1, [True, True, False])
    ours = convolution_backward(Passes(), grad, x, weight, None, *arguments)
    theirs = torch.ops.aten.convolution_backward(grad, x, weight, None, *arguments)
    for actual, reference in zip(ours[:2], theirs[:2], strict=True):
        assert actual is not None
        assert_close(actual, reference)
    assert ours[2] is None


def test_transposed_convolution_is_refused() -> None:
    x, weight = torch.randn(1, 2, 4, 4), torch.randn(2, 3, 3, 3)
    with pytest.raises(ExportError, match="transposed"):
        convolution(Passes(), x, weight, None, (1, 1), (0, 0), (1, 1), True, (0, 0), 1)

"""`aten.convolution` and its gradient as matrix products; here only the choice of the method."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pocketfed.core.errors import ExportError
from pocketfed.export.lowering.operators import depthwise, half_im2col, stem, taps, winograd
from pocketfed.export.lowering.operators.axes import batch_first, spatial_first
from pocketfed.export.lowering.operators.geometry import Geometry, geometry
from pocketfed.export.lowering.options import Passes

Product = Callable[[Tensor, Tensor, Geometry], Tensor]


@dataclass(frozen=True)
class Method:
    """Three ways through a convolution, all on spatial-first tensors.

    Attributes:
        forward: x [H, W, N, C], weight [O, C / groups, kh, kw] -> y [OH, OW, N, O].
        grad_input: gradient of y, weight -> gradient of x.
        grad_weight: gradient of y, x -> gradient of weight.
    """

    forward: Product
    grad_input: Product
    grad_weight: Product


GENERAL = Method(taps.forward, taps.grad_input, taps.grad_weight)
HALF_IM2COL = Method(half_im2col.forward, half_im2col.grad_input, half_im2col.grad_weight)
WINOGRAD = Method(winograd.forward, winograd.grad_input, winograd.grad_weight)
DEPTHWISE = Method(depthwise.forward, depthwise.grad_input, depthwise.grad_weight)
STEM = Method(stem.forward, half_im2col.grad_input, stem.grad_weight)


def choose(g: Geometry, passes: Passes) -> Method:
    """The fastest method that covers this geometry."""
    if g.dense and g.in_channels <= stem.MAX_CHANNELS and passes.stem_planes:
        return STEM
    if passes.depthwise_toeplitz and depthwise.applies(g):
        return DEPTHWISE
    if passes.winograd and winograd.applies(g):
        return WINOGRAD
    if g.dense and passes.half_im2col and (g.stride == (1, 1) or passes.strided_phases):
        return HALF_IM2COL
    return GENERAL


def convolution(
    passes: Passes,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
) -> Tensor:
    """x [N, C, H, W] (or [N, C, L]) and weight [O, C / groups, kh, kw] -> [N, O, OH, OW]."""
    _refuse_unknown(x, transposed)
    if x.dim() == 3:
        flat = convolution(
            passes,
            x.unsqueeze(2),
            weight.unsqueeze(2),
            bias,
            (1, *stride),
            (0, *padding),
            (1, *dilation),
            transposed,
            output_padding,
            groups,
        )
        return flat.squeeze(2)
    g = geometry(x, weight, stride, padding, dilation, groups)
    y = choose(g, passes).forward(spatial_first(x), weight, g)
    return batch_first(y if bias is None else y + bias)


def convolution_backward(
    passes: Passes,
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    bias_sizes: Sequence[int] | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
    wanted: Sequence[bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradient [N, O, OH, OW] of the output -> gradients of input, weight and bias, where wanted."""
    _refuse_unknown(x, transposed)
    if x.dim() == 3:
        to_x, to_weight, to_bias = convolution_backward(
            passes,
            grad.unsqueeze(2),
            x.unsqueeze(2),
            weight.unsqueeze(2),
            bias_sizes,
            (1, *stride),
            (0, *padding),
            (1, *dilation),
            transposed,
            output_padding,
            groups,
            wanted,
        )
        return (
            None if to_x is None else to_x.squeeze(2),
            None if to_weight is None else to_weight.squeeze(2),
            to_bias,
        )
    g = geometry(x, weight, stride, padding, dilation, groups)
    method = choose(g, passes)
    to_y = spatial_first(grad)  # [OH, OW, N, O]
    return (
        batch_first(method.grad_input(to_y, weight, g)) if wanted[0] else None,
        method.grad_weight(to_y, spatial_first(x), g) if wanted[1] else None,
        _sum_positions(to_y) if wanted[2] else None,
    )


def _sum_positions(y: Tensor) -> Tensor:
    """[OH, OW, N, O] -> [O]."""
    rows = y.reshape(-1, y.shape[3])  # [OH*OW*N, O]
    return torch.mm(torch.ones(1, rows.shape[0]), rows).reshape(-1)


def _refuse_unknown(x: Tensor, transposed: bool) -> None:
    if transposed:
        raise ExportError("aten.convolution(transposed=True) cannot be lowered; upsample, then convolve.")
    if x.dim() not in (3, 4):
        raise ExportError(
            f"aten.convolution on {x.dim()} dimensions cannot be lowered; use Conv1d or Conv2d."
        )

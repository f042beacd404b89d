"""The general convolution: one window of the input per kernel tap, for any stride, padding and grouping.

Written for generality, not for speed. Tensors are spatial first: x [H, W, N, C], y [OH, OW, N, O].
"""

import torch
from torch import Tensor

from pocketfed.export.lowering.operators.axes import concatenate, gather, scatter
from pocketfed.export.lowering.operators.geometry import Geometry


def forward(x: Tensor, weight: Tensor, g: Geometry) -> Tensor:
    """[H, W, N, C] and [O, C / groups, kh, kw] -> [OH, OW, N, O]."""
    products = torch.bmm(_columns(x, g), _matrices(weight, g))  # [G, R, O/G]
    return products.permute(1, 0, 2).reshape(*g.output, g.batch, g.out_channels)


def grad_input(grad: Tensor, weight: Tensor, g: Geometry) -> Tensor:
    """Gradient [OH, OW, N, O] of the output -> gradient [H, W, N, C] of the input."""
    channels = g.in_channels // g.groups
    columns = torch.bmm(_per_group(grad, g), _matrices(weight, g).permute(0, 2, 1))  # [G, R, T*C/G]
    total: Tensor | None = None
    for tap, (vertical, horizontal) in enumerate(_taps(g)):
        part = columns.narrow(2, tap * channels, channels).permute(1, 0, 2)  # [R, G, C/G]
        part = part.reshape(*g.output, g.batch, g.in_channels)
        part = _scatter(_scatter(part, 0, vertical, g), 1, horizontal, g)
        total = part if total is None else total + part
    assert total is not None
    return total


def grad_weight(grad: Tensor, x: Tensor, g: Geometry) -> Tensor:
    """Gradient [OH, OW, N, O] of the output and input [H, W, N, C] -> gradient [O, C / groups, kh, kw]."""
    outputs, inputs = g.out_channels // g.groups, g.in_channels // g.groups
    products = torch.bmm(_columns(x, g).permute(0, 2, 1), _per_group(grad, g))  # [G, T*C/G, O/G]
    split = products.reshape(g.groups, g.kernel[0] * g.kernel[1], inputs, outputs)
    return split.permute(0, 3, 2, 1).reshape(g.out_channels, inputs, *g.kernel)


def _taps(g: Geometry) -> list[tuple[int, int]]:
    return [(vertical, horizontal) for vertical in g.offsets(0) for horizontal in g.offsets(1)]


def _columns(x: Tensor, g: Geometry) -> Tensor:
    """[H, W, N, C] -> [G, OH*OW*N, T*C/G], the window under each tap side by side."""
    channels = g.in_channels // g.groups
    taps = [
        _gather(_gather(x, 0, vertical, g), 1, horizontal, g).reshape(-1, g.groups, channels)
        for vertical, horizontal in _taps(g)
    ]
    return concatenate(taps, 2).permute(1, 0, 2)


def _matrices(weight: Tensor, g: Geometry) -> Tensor:
    """[O, C/G, kh, kw] -> [G, T*C/G, O/G]."""
    inputs, outputs = g.in_channels // g.groups, g.out_channels // g.groups
    taps = g.kernel[0] * g.kernel[1]
    split = weight.reshape(g.groups, outputs, inputs, taps).permute(0, 3, 2, 1)  # [G, T, C/G, O/G]
    return split.reshape(g.groups, taps * inputs, outputs)


def _per_group(grad: Tensor, g: Geometry) -> Tensor:
    """[OH, OW, N, O] -> [G, OH*OW*N, O/G]."""
    return grad.reshape(-1, g.groups, g.out_channels // g.groups).permute(1, 0, 2)


def _gather(x: Tensor, axis: int, offset: int, g: Geometry) -> Tensor:
    return gather(x, axis, offset, g.stride[axis], g.output[axis])


def _scatter(y: Tensor, axis: int, offset: int, g: Geometry) -> Tensor:
    return scatter(y, axis, offset, g.stride[axis], g.size[axis])

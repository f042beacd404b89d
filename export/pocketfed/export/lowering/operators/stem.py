"""Dense convolutions of few input channels, as the first layer of a network is.

The taps become whole planes of pixels, [kh*kw*C, W*N] per output row: with three channels, gathering taps
on the channel axis would move memory twelve bytes at a time. x is [H, W, N, C], y is [OH, OW, N, O].
"""

import torch
from torch import Tensor

from pocketfed.export.lowering.operators.axes import concatenate, gather
from pocketfed.export.lowering.operators.geometry import Geometry

MAX_CHANNELS = 4


def forward(x: Tensor, weight: Tensor, g: Geometry) -> Tensor:
    """[H, W, N, C] and [O, C, kh, kw] -> [OH, OW, N, O]."""
    planes = _planes(x, g)  # [OH, T*C, OW*N]
    kernel = weight.permute(2, 3, 1, 0).reshape(planes.shape[1], g.out_channels)
    rows = planes.permute(0, 2, 1).reshape(-1, planes.shape[1])  # [OH*OW*N, T*C]
    return torch.mm(rows, kernel).reshape(*g.output, g.batch, g.out_channels)


def grad_weight(grad: Tensor, x: Tensor, g: Geometry) -> Tensor:
    """Gradient [OH, OW, N, O] of the output and input [H, W, N, C] -> gradient [O, C, kh, kw]."""
    planes = _planes(x, g)  # [OH, T*C, OW*N]
    height, taps, _ = planes.shape
    products = torch.bmm(planes, grad.reshape(height, -1, g.out_channels))  # [OH, T*C, O]
    total = torch.mm(torch.ones(1, height), products.reshape(height, taps * g.out_channels))
    return total.reshape(*g.kernel, g.in_channels, g.out_channels).permute(3, 2, 0, 1)


def _planes(x: Tensor, g: Geometry) -> Tensor:
    """[H, W, N, C] -> [OH, kh*kw*C, OW*N]."""
    height, width, batch, channels = x.shape
    # The detour over three axes makes the permutation happen here, on the input, and not later, on every tap.
    planes = x.permute(0, 3, 1, 2).reshape(height, channels, width * batch)
    planes = planes.reshape(height, channels, width, batch)
    across = [gather(planes, 2, offset, g.stride[1], g.output[1]) for offset in g.offsets(1)]
    columns = concatenate(across, 1)  # [H, kw*C, OW, N]
    down = [gather(columns, 0, offset, g.stride[0], g.output[0]) for offset in g.offsets(0)]
    return concatenate(down, 1).reshape(g.output[0], -1, g.output[1] * g.batch)

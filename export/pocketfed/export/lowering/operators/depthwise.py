"""Depthwise convolutions as one banded (Toeplitz) matrix per channel.

A row of the output is a product of the input rows that the kernel touches with a matrix that holds the
kernel's taps along its diagonals: for channel c and kernel height kh,

    y[c] = cat(rows under tap 0, …, rows under tap kh - 1) @ T[c],    T[c] = sum_t w[c, t] · S[t]

with S constant zeros and ones. On small maps the whole plane is one row. Any stride, padding and dilation
only changes S and the choice of rows. x is [H, W, N, C] and y is [OH, OW, N, O] outside; inside, everything
is channel first, [C, H, N, W].
"""

from dataclasses import replace

import torch
from torch import Tensor

from pocketfed.export.lowering.operators.axes import concatenate, gather, scatter
from pocketfed.export.lowering.operators.geometry import Geometry

MAX_WIDTH = 128
MAX_PLANE = 4096  # input positions times output positions for which the whole plane is one row


def applies(g: Geometry) -> bool:
    """Whether this convolution can be done this way with matrices of reasonable size."""
    return g.depthwise and max(_upright(g).size[1], _upright(g).output[1]) <= MAX_WIDTH


def forward(x: Tensor, weight: Tensor, g: Geometry) -> Tensor:
    """[H, W, N, C] and [C, 1, kh, kw] -> [OH, OW, N, C]."""
    if _upright(g) != g:
        return _turn(forward(_turn(x), weight.permute(0, 1, 3, 2), _upright(g)))
    products = torch.bmm(_rows(x, g), _bands(weight, g))  # [C, OH*N, OW] or [C, N, OH*OW]
    return _from_rows(products, g)


def grad_input(grad: Tensor, weight: Tensor, g: Geometry) -> Tensor:
    """Gradient [OH, OW, N, C] of the output -> gradient [H, W, N, C] of the input."""
    if _upright(g) != g:
        return _turn(grad_input(_turn(grad), weight.permute(0, 1, 3, 2), _upright(g)))
    products = torch.bmm(_output_rows(grad, g), _bands(weight, g, transposed=True))
    if _whole_plane(g):
        planes = products.reshape(g.in_channels, g.batch, *g.size)  # [C, N, H, W]
        return planes.permute(2, 3, 1, 0)
    width = g.size[1]
    total: Tensor | None = None
    for tap, offset in enumerate(g.offsets(0)):
        part = products.narrow(2, tap * width, width)  # [C, OH*N, W]
        part = part.reshape(g.in_channels, g.output[0], g.batch, width)
        placed = scatter(part, 1, offset, g.stride[0], g.size[0])
        total = placed if total is None else total + placed
    assert total is not None
    return total.permute(1, 3, 2, 0)


def grad_weight(grad: Tensor, x: Tensor, g: Geometry) -> Tensor:
    """Gradient [OH, OW, N, C] of the output and input [H, W, N, C] -> gradient [C, 1, kh, kw]."""
    if _upright(g) != g:
        return grad_weight(_turn(grad), _turn(x), _upright(g)).permute(0, 1, 3, 2)
    products = torch.bmm(_rows(x, g).permute(0, 2, 1), _output_rows(grad, g))  # [C, kh*W, OW]
    flat = torch.mm(products.reshape(g.in_channels, -1), _selection(g).t())
    return flat.reshape(g.in_channels, 1, *g.kernel)


def _upright(g: Geometry) -> Geometry:
    """The geometry with rows along the longer side of the kernel: k x 1 kernels become 1 x k."""
    if g.kernel[0] > g.kernel[1] == 1:
        pairs = {name: getattr(g, name)[::-1] for name in ("size", "kernel", "stride", "padding", "dilation")}
        return replace(g, **pairs)
    return g


def _turn(x: Tensor) -> Tensor:
    """[H, W, N, C] -> [W, H, N, C]."""
    return x.permute(1, 0, 2, 3)


def _whole_plane(g: Geometry) -> bool:
    return g.size[0] * g.size[1] * g.output[0] * g.output[1] <= MAX_PLANE


def _rows(x: Tensor, g: Geometry) -> Tensor:
    """[H, W, N, C] -> [C, OH*N, kh*W], the input rows under each vertical tap; or [C, N, H*W]."""
    channels, (height, width) = g.in_channels, g.size
    if _whole_plane(g):
        return x.permute(3, 2, 0, 1).reshape(channels, g.batch, height * width)
    rows = x.permute(3, 0, 2, 1).reshape(channels, height, g.batch, width)
    taps = [gather(rows, 1, offset, g.stride[0], g.output[0]) for offset in g.offsets(0)]
    return concatenate(taps, 3).reshape(channels, g.output[0] * g.batch, g.kernel[0] * width)


def _output_rows(y: Tensor, g: Geometry) -> Tensor:
    """[OH, OW, N, C] -> [C, OH*N, OW] or [C, N, OH*OW]."""
    if _whole_plane(g):
        return y.permute(3, 2, 0, 1).reshape(g.in_channels, g.batch, -1)
    return y.permute(3, 0, 2, 1).reshape(g.in_channels, -1, g.output[1])


def _from_rows(rows: Tensor, g: Geometry) -> Tensor:
    """The inverse of `_output_rows`."""
    height, width = g.output
    if _whole_plane(g):
        return rows.reshape(g.in_channels, g.batch, height, width).permute(2, 3, 1, 0)
    return rows.reshape(g.in_channels, height, g.batch, width).permute(1, 3, 2, 0)


def _bands(weight: Tensor, g: Geometry, transposed: bool = False) -> Tensor:
    """[C, 1, kh, kw] -> T [C, kh*W, OW] (or over planes [C, H*W, OH*OW]), or its transpose."""
    outputs = g.output[0] * g.output[1] if _whole_plane(g) else g.output[1]
    selection = _selection(g)
    if transposed:
        selection = (
            selection.reshape(selection.shape[0], -1, outputs).permute(0, 2, 1).reshape(selection.shape)
        )
    bands = torch.mm(weight.reshape(g.in_channels, -1), selection)
    return bands.reshape((g.in_channels, outputs, -1) if transposed else (g.in_channels, -1, outputs))


def _selection(g: Geometry) -> Tensor:
    """S [kh*kw, kh*W*OW] (or over planes [kh*kw, H*W*OH*OW]): where each tap sits in the band matrix."""
    across = _hits(g, 1)  # [kw, W, OW]
    if _whole_plane(g):
        down = _hits(g, 0)  # [kh, H, OH]
        planes = torch.einsum("iac,jbd->ijabcd", down, across)  # [kh, kw, H, W, OH, OW]
        return planes.reshape(g.kernel[0] * g.kernel[1], -1)
    rows = torch.einsum("ik,jbd->ijkbd", torch.eye(g.kernel[0]), across)  # [kh, kw, kh, W, OW]
    return rows.reshape(g.kernel[0] * g.kernel[1], -1)


def _hits(g: Geometry, axis: int) -> Tensor:
    """[taps, input positions, output positions] of one axis: 1 where the tap of the output reads the input."""
    taps = torch.tensor(g.offsets(axis)).reshape(-1, 1, 1)
    inputs = torch.arange(g.size[axis]).reshape(1, -1, 1)
    outputs = torch.arange(g.output[axis]).reshape(1, 1, -1) * g.stride[axis]
    return (inputs - outputs == taps).to(torch.float32)

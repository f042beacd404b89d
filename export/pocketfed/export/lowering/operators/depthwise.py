"""Depthwise convolutions as one banded (Toeplitz) matrix per channel.

The output is cut into blocks of h rows. For channel c, all pixels of a block are a product of all pixels of the
input rows that the block reads with a matrix that holds the kernel's taps along its diagonals,

    y_block[c] = x_window[c] @ T[c],    T[c] = sum_t w[c, t] · S[t]

with S constant zeros and ones. Any stride, padding and dilation only changes S and the windows, and the gradient
of the input is the same product with windows of the output's gradient and the transpose of T. `block_rows` chooses
h. x is [H, W, N, C] and y is [OH, OW, N, O] outside; inside, everything is channel first, [C, N, blocks, pixels].
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pocketfed.export.lowering.operators.axes import concatenate, window
from pocketfed.export.lowering.operators.geometry import Geometry

MAX_WIDTH = 128
MAX_BAND = 9216  # entries of a matrix; larger ones make programs large

# Measured in picoseconds on one core with 512-bit vectors; only their ratios matter.
MULTIPLY = {32: 8.0, 16: 11.0}  # a multiplication in products whose columns come in 32s or in 16s
GATHER = 300.0  # moving a number into a window, there and back


@dataclass(frozen=True)
class Windows:
    """Runs of rows of one tensor: number b is the rows `start + b * step … start + b * step + span - 1`."""

    start: int
    step: int
    span: int
    count: int


def applies(g: Geometry) -> bool:
    """Whether this convolution can be done this way with matrices of reasonable size."""
    return g.depthwise and max(_upright(g).size[1], _upright(g).output[1]) <= MAX_WIDTH


def block_rows(g: Geometry) -> int:
    """How many rows of the output make a block: the divisor of its height with the lowest estimated cost.

    High blocks multiply with more zeros, low ones gather more rows twice, and the whole plane needs no gathering.
    """
    heights = [rows for rows in range(1, g.output[0] + 1) if g.output[0] % rows == 0]
    affordable = [rows for rows in heights if _band_size(g, rows) <= MAX_BAND]
    return min(affordable or [1], key=lambda rows: _cost(g, rows))


def forward(x: Tensor, weight: Tensor, g: Geometry) -> Tensor:
    """[H, W, N, C] and [C, 1, kh, kw] -> [OH, OW, N, C]."""
    if _upright(g) != g:
        return _turn(forward(_turn(x), weight.permute(0, 1, 3, 2), _upright(g)))
    read = _inputs_read(g, block_rows(g))
    products = torch.bmm(_gather(x, read), _bands(weight, _selection(g, read)))  # [C, N*B, h*OW]
    return _spatial_first(products, g, g.output)


def grad_input(grad: Tensor, weight: Tensor, g: Geometry) -> Tensor:
    """Gradient [OH, OW, N, C] of the output -> gradient [H, W, N, C] of the input."""
    if _upright(g) != g:
        return _turn(grad_input(_turn(grad), weight.permute(0, 1, 3, 2), _upright(g)))
    read = _outputs_read(g, block_rows(g))
    products = torch.bmm(_gather(grad, read), _bands(weight, _transposed_selection(g, read)))  # [C, N*B, q*W]
    return _spatial_first(products, g, g.size)


def grad_weight(grad: Tensor, x: Tensor, g: Geometry) -> Tensor:
    """Gradient [OH, OW, N, C] of the output and input [H, W, N, C] -> gradient [C, 1, kh, kw]."""
    if _upright(g) != g:
        return grad_weight(_turn(grad), _turn(x), _upright(g)).permute(0, 1, 3, 2)
    rows = block_rows(g)
    read = _inputs_read(g, rows)
    inputs = _gather(x, read)  # [C, N*B, K]
    outputs = _gather(grad, Windows(0, rows, rows, read.count))  # [C, N*B, h*OW]
    selection = _selection(g, read)  # [kh*kw, K, h*OW]
    if outputs.shape[2] < inputs.shape[2]:  # the narrower side is the one transposed
        products = torch.bmm(outputs.permute(0, 2, 1), inputs)
        selection = selection.permute(0, 2, 1)
    else:
        products = torch.bmm(inputs.permute(0, 2, 1), outputs)
    flat = torch.mm(products.reshape(g.in_channels, -1), selection.reshape(selection.shape[0], -1).t())
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


def _cost(g: Geometry, rows: int) -> float:
    """Picoseconds per channel and image of a forward pass in blocks of so many rows."""
    read = _inputs_read(g, rows)
    inputs, outputs = read.span * g.size[1], rows * g.output[1]
    gathered = 0.0 if read.count == 1 or read.span == read.step else GATHER * inputs
    multiplied = min(price * inputs * -(-outputs // columns) * columns for columns, price in MULTIPLY.items())
    return read.count * (multiplied + gathered)


def _band_size(g: Geometry, rows: int) -> int:
    return _inputs_read(g, rows).span * g.size[1] * rows * g.output[1]


def _inputs_read(g: Geometry, rows: int) -> Windows:
    """The input rows that each block of the output reads."""
    offsets = g.offsets(0)
    span = (rows - 1) * g.stride[0] + offsets[-1] - offsets[0] + 1
    return _inside(Windows(offsets[0], rows * g.stride[0], span, g.output[0] // rows), g.size[0])


def _outputs_read(g: Geometry, rows: int) -> Windows:
    """The output rows that read each block of `rows * stride` input rows."""
    offsets, stride = g.offsets(0), g.stride[0]
    first, last = -(offsets[-1] // stride), (rows * stride - 1 - offsets[0]) // stride
    count = -(-g.size[0] // (rows * stride))
    return _inside(Windows(first, rows, max(last - first + 1, 1), count), g.output[0])


def _inside(windows: Windows, size: int) -> Windows:
    """A single window needs no rows outside the tensor."""
    first, last = max(windows.start, 0), min(windows.start + windows.span, size)
    if windows.count > 1 or first >= last:
        return windows
    return Windows(first, size, last - first, 1)


def _gather(x: Tensor, read: Windows) -> Tensor:
    """[H, W, N, C] -> [C, N*count, span*W]: windows of rows side by side, zeros outside the tensor."""
    height, width, batch, channels = x.shape
    blocks = -(-height // read.step)
    planes = window(x.permute(3, 2, 0, 1), 2, 0, blocks * read.step)
    grid = planes.reshape(channels, batch, blocks, read.step * width)
    first, last = read.start // read.step, (read.start + read.span - 1) // read.step
    parts = []
    for block in range(first, last + 1):  # relative to the window's own; only neighbours' rows are copied
        top = max(read.start - block * read.step, 0)
        bottom = min(read.start + read.span - block * read.step, read.step)
        part = grid.narrow(3, top * width, (bottom - top) * width)
        parts.append(window(part, 2, block, read.count))
    return concatenate(parts, 3).reshape(channels, batch * read.count, read.span * width)


def _spatial_first(products: Tensor, g: Geometry, size: tuple[int, int]) -> Tensor:
    """[C, N*B, rows*W] -> [H, W, N, C]; rows beyond the height, of which the last block may have some, are dropped."""
    planes = products.reshape(g.in_channels, g.batch, -1, size[1])
    return planes.narrow(2, 0, size[0]).permute(2, 3, 1, 0)


def _bands(weight: Tensor, selection: Tensor) -> Tensor:
    """[C, 1, kh, kw] and S [kh*kw, K, L] -> T [C, K, L]."""
    taps, inputs, outputs = selection.shape
    bands = torch.mm(weight.reshape(-1, taps), selection.reshape(taps, inputs * outputs))
    return bands.reshape(-1, inputs, outputs)


def _selection(g: Geometry, read: Windows) -> Tensor:
    """S [kh*kw, span*W, h*OW] of the first block: where each tap sits in the band matrix."""
    rows = g.output[0] // read.count
    return _kron(_hits(g, 0, read.start, read.span, 0, rows), _hits(g, 1, 0, g.size[1], 0, g.output[1]))


def _transposed_selection(g: Geometry, read: Windows) -> Tensor:
    """S [kh*kw, span*OW, q*W]: from the output rows of a window to the q input rows of its block."""
    rows = block_rows(g) * g.stride[0] if read.count > 1 else g.size[0]
    down = _hits(g, 0, 0, rows, read.start, read.span)
    return _kron(down.transpose(1, 2), _hits(g, 1, 0, g.size[1], 0, g.output[1]).transpose(1, 2))


def _kron(down: Tensor, across: Tensor) -> Tensor:
    """[kh, a, b] and [kw, c, d] -> [kh*kw, a*c, b*d]."""
    product = torch.einsum("iab,jcd->ijacbd", down, across)
    return product.reshape(
        down.shape[0] * across.shape[0], down.shape[1] * across.shape[1], down.shape[2] * across.shape[2]
    )


def _hits(g: Geometry, axis: int, first_in: int, inputs: int, first_out: int, outputs: int) -> Tensor:
    """[taps, inputs, outputs] of one axis: 1 where the tap of that output position reads that input position."""
    taps = torch.tensor(g.offsets(axis)).reshape(-1, 1, 1)
    read = torch.arange(first_in, first_in + inputs).reshape(1, -1, 1)
    written = torch.arange(first_out, first_out + outputs).reshape(1, 1, -1) * g.stride[axis]
    return (read - written == taps).to(torch.float32)

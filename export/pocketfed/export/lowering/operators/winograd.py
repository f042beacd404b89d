"""Dense 3x3 convolutions of stride one as Winograd's F(2x2, 3x3): 16 products instead of 36 per 2x2 outputs.

After Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", 2016. With d a 4x4 tile of the
input, g a kernel and the constant matrices B, G and A,

    y = A^T [(G g G^T) * (B^T d B)] A

B and A hold only zeros and ones, so those products are sums of rows and columns; the elementwise product
over channels is one matrix product per position of the 4x4 tile. Tensors are spatial first: x [H, W, N, C].
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from pocketfed.export.lowering.operators.axes import inner_products, interleave, phases, window
from pocketfed.export.lowering.operators.geometry import Geometry

MIN_CHANNELS = 64  # below, the saved products cost less than the sums around them

_KERNEL = torch.tensor([[1.0, 0.0, 0.0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0.0, 0.0, 1.0]])  # G
_SIGNS = torch.tensor([1.0, 1.0, 1.0, -1.0])  # of the rows of A, whose last one is -1: see `_spread`


def applies(g: Geometry) -> bool:
    """Whether this convolution can be done, and is worth doing, this way."""
    plain = (g.kernel, g.stride, g.padding, g.dilation) == ((3, 3), (1, 1), (1, 1), (1, 1))
    return plain and g.dense and min(g.in_channels, g.out_channels) >= MIN_CHANNELS


def forward(x: Tensor, weight: Tensor, g: Geometry) -> Tensor:
    """[H, W, N, C] and [O, C, 3, 3] -> [H, W, N, O]."""
    taps = weight.permute(2, 3, 1, 0).reshape(9, -1)  # [9, C*O]
    kernels = torch.mm(torch.kron(_KERNEL, _KERNEL), taps).reshape(16, g.in_channels, g.out_channels)
    return _correlate(x, kernels)


def grad_input(grad: Tensor, weight: Tensor, g: Geometry) -> Tensor:
    """Gradient [H, W, N, O] of the output -> gradient [H, W, N, C]: a correlation with the turned kernel."""
    taps = weight.permute(2, 3, 0, 1).reshape(9, -1)  # [9, O*C]
    turned = torch.kron(_KERNEL, _KERNEL).flip(1)
    return _correlate(grad, torch.mm(turned, taps).reshape(16, g.out_channels, g.in_channels))


def grad_weight(grad: Tensor, x: Tensor, g: Geometry) -> Tensor:
    """Gradient [H, W, N, O] of the output and input [H, W, N, C] -> gradient [O, C, 3, 3]."""
    tiles, spreads = _tiles(x), _spread_tiles(grad)
    products = [
        inner_products(tile.reshape(-1, g.in_channels), spread.reshape(-1, g.out_channels)).reshape(1, -1)
        for tile, spread in zip(tiles, spreads, strict=True)
    ]
    back = torch.kron(_KERNEL, _KERNEL).t() * torch.kron(_SIGNS, _SIGNS)  # [9, 16]
    total = torch.mm(back, torch.cat(products, 0))  # [9, C*O]
    return total.reshape(3, 3, g.in_channels, g.out_channels).permute(3, 2, 0, 1)


def _correlate(x: Tensor, kernels: Tensor) -> Tensor:
    """[H, W, N, C] and transformed kernels [16, C, O] -> [H, W, N, O]."""
    height, width, channels = x.shape[0], x.shape[1], x.shape[3]
    products = [
        torch.mm(tile.reshape(-1, channels), kernels[place]).reshape(*tile.shape[:3], -1)
        for place, tile in enumerate(_tiles(x))
    ]  # 16 of [H/2, W/2, N, O]
    columns = [_gather_rows([products[4 * row + column] for row in range(4)]) for column in range(4)]
    rows = [
        interleave(_gather_rows([columns[column][parity] for column in range(4)]), 1, width)
        for parity in range(2)
    ]
    return interleave(rows, 0, height)


def _tiles(x: Tensor) -> list[Tensor]:
    """B^T d B for every tile: [H, W, N, C] -> 16 of [H/2, W/2, N, C], row by row."""
    return [tile for row in _tile_rows(x, 0) for tile in _tile_rows(row, 1)]


def _tile_rows(x: Tensor, dim: int) -> list[Tensor]:
    """B^T along one axis: four tensors with half the positions."""
    count = -(-x.shape[dim] // 2)
    even, odd = phases(window(x, dim, -1, 2 * count + 2), dim, 2)
    d0, d1 = even.narrow(dim, 0, count), odd.narrow(dim, 0, count)
    d2, d3 = even.narrow(dim, 1, count), odd.narrow(dim, 1, count)
    return [d0 - d2, d1 + d2, d2 - d1, d1 - d3]


def _gather_rows(m: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """A^T along one axis: four products -> the even and the odd positions of the result."""
    return m[0] + (m[1] + m[2]), (m[1] - m[2]) - m[3]


def _spread_tiles(grad: Tensor) -> list[Tensor]:
    """A y A^T up to `_SIGNS`: [H, W, N, O] -> 16 of [H/2, W/2, N, O], row by row."""
    return [tile for row in _spread(grad, 0) for tile in _spread(row, 1)]


def _spread(y: Tensor, dim: int) -> list[Tensor]:
    """A along one axis, the sign of its last row left out."""
    even, odd = phases(y, dim, 2)
    return [even, even + odd, even - odd, odd]

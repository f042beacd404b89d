"""Dense convolutions whose horizontal taps are gathered and whose vertical taps are added up.

With S the input, its horizontal taps side by side on the channel axis, and W_i the i-th row of the kernel,

    y[h] = sum_i (S @ W_i)[h + i·dilation - padding]

so only kw copies of the input are made, no multiplication is wasted on padding, and the vertical shifts are
long contiguous runs. A stride splits rows and columns into phases first; each phase is then an ordinary
convolution of stride one. Tensors are spatial first: x [H, W, N, C], y [OH, OW, N, O].
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from pocketfed.export.lowering.operators.axes import (
    concatenate,
    inner_products,
    interleave,
    phases,
    window,
    windows,
)
from pocketfed.export.lowering.operators.geometry import Geometry


@dataclass(frozen=True)
class Tap:
    """A kernel tap of one axis: it reads phase `phase` at `output position + shift`."""

    index: int
    phase: int
    shift: int


def forward(x: Tensor, weight: Tensor, g: Geometry) -> Tensor:
    """[H, W, N, C] and [O, C, kh, kw] -> [OH, OW, N, O]."""
    kernels = weight.permute(2, 3, 1, 0).reshape(g.kernel[0], g.kernel[1] * g.in_channels, g.out_channels)
    total: Tensor | None = None
    rows = phases(x, 0, g.stride[0])
    for tap in _taps(g, 0):
        columns = _columns(rows[tap.phase], g)  # [H/s, OW, N, kw*C]
        product = torch.mm(columns.reshape(-1, columns.shape[3]), kernels[tap.index])
        product = product.reshape(*columns.shape[:3], g.out_channels)
        shifted = window(product, 0, tap.shift, g.output[0])
        total = shifted if total is None else total + shifted
    assert total is not None
    return total


def grad_input(grad: Tensor, weight: Tensor, g: Geometry) -> Tensor:
    """Gradient [OH, OW, N, O] of the output -> gradient [H, W, N, C] of the input."""
    by_tap = weight.permute(3, 2, 0, 1)  # [kw, kh, O, C]
    widths = -(-g.size[1] // g.stride[1])
    rows: list[Tensor | None] = []
    for taps in _by_phase(g, 0):
        if not taps:
            rows.append(None)
            continue
        stacked = _rows(grad, taps, g)  # [H/s, OW, N, taps*O]
        flat = stacked.reshape(-1, stacked.shape[3])
        columns: list[Tensor | None] = []
        for across in _by_phase(g, 1):
            total: Tensor | None = None
            for tap in across:
                kernel = concatenate([by_tap[tap.index, down.index] for down in taps], 0)  # [taps*O, C]
                product = torch.mm(flat, kernel).reshape(*stacked.shape[:3], g.in_channels)
                shifted = window(product, 1, -tap.shift, widths)
                total = shifted if total is None else total + shifted
            columns.append(total)
        rows.append(interleave(columns, 1, g.size[1]))
    return interleave(rows, 0, g.size[0])


def grad_weight(grad: Tensor, x: Tensor, g: Geometry) -> Tensor:
    """Gradient [OH, OW, N, O] of the output and input [H, W, N, C] -> gradient [O, C, kh, kw]."""
    parts: dict[int, Tensor] = {}
    for taps, row in zip(_by_phase(g, 0), phases(x, 0, g.stride[0]), strict=True):
        if not taps:
            continue
        columns = _columns(row, g)  # [H/s, OW, N, kw*C]
        stacked = _rows(grad, taps, g)  # [H/s, OW, N, taps*O]
        products = inner_products(
            columns.reshape(-1, columns.shape[3]), stacked.reshape(-1, stacked.shape[3])
        ).reshape(g.kernel[1], g.in_channels, len(taps), g.out_channels)
        parts.update({tap.index: products.narrow(2, place, 1) for place, tap in enumerate(taps)})
    ordered = concatenate([parts[index] for index in range(g.kernel[0])], 2)  # [kw, C, kh, O]
    return ordered.permute(3, 1, 2, 0)


def _taps(g: Geometry, axis: int) -> list[Tap]:
    stride = g.stride[axis]
    return [Tap(index, offset % stride, offset // stride) for index, offset in enumerate(g.offsets(axis))]


def _by_phase(g: Geometry, axis: int) -> list[list[Tap]]:
    taps = _taps(g, axis)
    return [[tap for tap in taps if tap.phase == phase] for phase in range(g.stride[axis])]


def _columns(row: Tensor, g: Geometry) -> Tensor:
    """One phase of rows [H/s, W, N, C] -> [H/s, OW, N, kw*C], the horizontal taps side by side."""
    shifted: dict[int, Tensor] = {}
    for taps, column in zip(_by_phase(g, 1), phases(row, 1, g.stride[1]), strict=True):
        views = windows(column, 1, [tap.shift for tap in taps], g.output[1])
        shifted.update({tap.index: view for tap, view in zip(taps, views, strict=True)})
    return concatenate([shifted[index] for index in range(g.kernel[1])], 3)


def _rows(grad: Tensor, taps: list[Tap], g: Geometry) -> Tensor:
    """[OH, OW, N, O] -> [H/s, OW, N, taps*O]: row h holds, per tap, the output row that tap sends h to."""
    heights = -(-g.size[0] // g.stride[0])
    return concatenate(windows(grad, 0, [-tap.shift for tap in taps], heights), 3)

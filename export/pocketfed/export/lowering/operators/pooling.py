"""Average and maximum pooling from strided windows, so that their gradients are right and delegated."""

from collections.abc import Sequence

import torch
from torch import Tensor

from pocketfed.core.errors import ExportError
from pocketfed.export.lowering.operators.activations import positive
from pocketfed.export.lowering.operators.axes import batch_first, gather, scatter, spatial_first
from pocketfed.export.lowering.operators.geometry import Geometry, geometry

LOWEST = -3e38


def avg_pool2d(
    x: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0, 0),
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:
    """x [N, C, H, W] -> [N, C, OH, OW], the mean of each window."""
    g = _geometry("avg_pool2d", x, kernel, stride, padding, (1, 1), ceil_mode)
    total = sum(_windows(spatial_first(x), g), torch.zeros(()))
    return batch_first(total * _shares(g, count_include_pad, divisor_override))


def avg_pool2d_backward(
    grad: Tensor,
    x: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    ceil_mode: bool,
    count_include_pad: bool,
    divisor_override: int | None,
) -> Tensor:
    """Gradient [N, C, OH, OW] of the output -> gradient [N, C, H, W] of the input."""
    g = _geometry("avg_pool2d", x, kernel, stride, padding, (1, 1), ceil_mode)
    share = spatial_first(grad) * _shares(g, count_include_pad, divisor_override)
    return batch_first(_scatter([share] * (g.kernel[0] * g.kernel[1]), g))


def max_pool2d(
    x: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0, 0),
    dilation: Sequence[int] = (1, 1),
    ceil_mode: bool = False,
) -> tuple[Tensor, Tensor]:
    """x [N, C, H, W] -> (maxima [N, C, OH, OW], placeholder for the indices, which the gradient ignores)."""
    g = _geometry("max_pool2d", x, kernel, stride, padding, dilation, ceil_mode)
    largest = None
    for candidate in _candidates(x, g):
        largest = candidate if largest is None else torch.maximum(largest, candidate)
    assert largest is not None
    y = batch_first(largest)
    return y, y


def max_pool2d_backward(
    grad: Tensor,
    x: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    ceil_mode: bool,
    indices: Tensor,
) -> Tensor:
    """Gradient [N, C, OH, OW] of the output -> gradient [N, C, H, W] of the input.

    A window's gradient goes to its first maximum, as in PyTorch.
    """
    del indices
    g = _geometry("max_pool2d", x, kernel, stride, padding, dilation, ceil_mode)
    to_y = spatial_first(grad)
    candidates = _candidates(x, g)
    following: list[Tensor | None] = [None] * len(candidates)  # the maximum of all later candidates
    for index in range(len(candidates) - 2, -1, -1):
        later, rest = candidates[index + 1], following[index + 1]
        following[index] = later if rest is None else torch.maximum(later, rest)
    parts: list[Tensor] = []
    earlier: Tensor | None = None
    for candidate, later_maximum in zip(candidates, following, strict=True):
        part = to_y
        if earlier is not None:
            part = part * positive(candidate - earlier)
        if later_maximum is not None:
            part = part - part * positive(later_maximum - candidate)
        parts.append(part)
        earlier = candidate if earlier is None else torch.maximum(earlier, candidate)
    return batch_first(_scatter(parts, g))


def adaptive_avg_pool2d(x: Tensor, output_size: Sequence[int]) -> Tensor:
    """x [N, C, H, W] -> [N, C, *output_size], where the output size divides the input size."""
    return avg_pool2d(x, _divided("adaptive_avg_pool2d", x, output_size))


def adaptive_avg_pool2d_backward(grad: Tensor, x: Tensor) -> Tensor:
    """Gradient of `adaptive_avg_pool2d`."""
    kernel = _divided("adaptive_avg_pool2d", x, grad.shape[2:])
    return avg_pool2d_backward(grad, x, kernel, kernel, (0, 0), False, True, None)


def _divided(name: str, x: Tensor, output_size: Sequence[int]) -> tuple[int, int]:
    height, width = x.shape[2:]
    if height % output_size[0] or width % output_size[1]:
        raise ExportError(
            f"aten.{name} from {height}x{width} to {output_size[0]}x{output_size[1]} cannot be lowered; "
            "use an output size that divides the input size."
        )
    return height // output_size[0], width // output_size[1]


def _geometry(
    name: str,
    x: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    ceil_mode: bool,
) -> Geometry:
    if ceil_mode or x.dim() != 4:
        raise ExportError(
            f"aten.{name} cannot be lowered with ceil_mode or without a batch; pad the input instead."
        )
    filters = torch.empty(x.shape[1], 1, kernel[0], kernel[-1], device="meta")
    return geometry(x, filters, stride or kernel, padding, dilation, x.shape[1])


def _windows(x: Tensor, g: Geometry) -> list[Tensor]:
    """[H, W, N, C] -> one [OH, OW, N, C] per tap, zeros outside the input."""
    rows = [_strided(x, 0, offset, g) for offset in g.offsets(0)]
    return [_strided(row, 1, offset, g) for row in rows for offset in g.offsets(1)]


def _candidates(x: Tensor, g: Geometry) -> list[Tensor]:
    """[N, C, H, W] -> one [OH, OW, N, C] per tap, very low values outside the input."""
    taps = _windows(spatial_first(x), g)
    if g.padding == (0, 0):
        return taps
    inside = _windows(torch.ones(*g.size, 1, 1), g)
    return [tap + (1.0 - mask) * LOWEST for tap, mask in zip(taps, inside, strict=True)]


def _shares(g: Geometry, count_include_pad: bool, divisor_override: int | None) -> Tensor:
    """What each window's sum is multiplied with, [1, 1, 1, 1] or [OH, OW, 1, 1]."""
    if divisor_override:
        return torch.full((1, 1, 1, 1), 1.0 / divisor_override)
    if count_include_pad or g.padding == (0, 0):
        return torch.full((1, 1, 1, 1), 1.0 / (g.kernel[0] * g.kernel[1]))
    return 1.0 / sum(_windows(torch.ones(*g.size, 1, 1), g), torch.zeros(()))


def _scatter(parts: Sequence[Tensor], g: Geometry) -> Tensor:
    """The transpose of `_windows`: one [OH, OW, N, C] per tap -> [H, W, N, C]."""
    total: Tensor | None = None
    for index, offset in enumerate(g.offsets(0)):
        row: Tensor | None = None
        for place, across in enumerate(g.offsets(1)):
            part = _spread(parts[index * g.kernel[1] + place], 1, across, g)
            row = part if row is None else row + part
        assert row is not None
        spread = _spread(row, 0, offset, g)
        total = spread if total is None else total + spread
    assert total is not None
    return total


def _strided(x: Tensor, axis: int, offset: int, g: Geometry) -> Tensor:
    return gather(x, axis, offset, g.stride[axis], g.output[axis])


def _spread(y: Tensor, axis: int, offset: int, g: Geometry) -> Tensor:
    return scatter(y, axis, offset, g.stride[axis], g.size[axis])

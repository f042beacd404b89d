"""Group, layer and batch normalisation, forward and backward, with sums as matrix products."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from pocketfed.export.lowering.operators.axes import batch_first, spatial_first
from pocketfed.export.lowering.operators.reductions import column_means, column_sums, row_sums
from pocketfed.export.lowering.options import Passes

Gradients = tuple[Tensor | None, Tensor | None, Tensor | None]


def group_norm(
    passes: Passes,
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    batch: int,
    channels: int,
    positions: int,
    groups: int,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """x [N, C, …] -> (y [N, C, …], mean [N, G], reciprocal deviation [N, G])."""
    if not (passes.spatial_first_norm and x.dim() == 4):
        rows = x.reshape(batch * groups, -1)  # [N*G, C/G*HW]
        centred, inverse, mean = _standardise(rows, eps)
        y = (centred * inverse).reshape(batch, channels, positions)
        if weight is not None:
            y = y * weight.reshape(1, channels, 1)
        if bias is not None:
            y = y + bias.reshape(1, channels, 1)
        return y.reshape(x.shape), mean.reshape(batch, groups), inverse.reshape(batch, groups)
    rows = spatial_first(x).reshape(1, 1, positions, batch * channels)  # pixels of N*C channels
    pool = _group_means(channels, groups)
    mean = torch.mm(_pixel_means(rows).reshape(batch, channels), pool)  # [N, G]
    centred = rows - _to_channels(mean, channels)
    variance = torch.mm(_pixel_means(centred * centred).reshape(batch, channels), pool)  # [N, G]
    inverse = torch.rsqrt(variance + eps)
    y = centred * _to_channels(inverse, channels, weight)
    if bias is not None:
        y = y + (torch.ones(batch, 1) * bias.reshape(1, channels)).reshape(1, -1)
    return _to_images(y, x), mean, inverse


def group_norm_backward(
    passes: Passes,
    grad: Tensor,
    x: Tensor,
    mean: Tensor,
    inverse: Tensor,
    weight: Tensor | None,
    batch: int,
    channels: int,
    positions: int,
    groups: int,
    wanted: Sequence[bool],
) -> Gradients:
    """Gradients of x, weight and bias from the output's gradient [N, C, …]."""
    if not (passes.spatial_first_norm and x.dim() == 4):
        return _group_norm_backward_by_rows(
            grad, x, mean, inverse, weight, batch, channels, positions, groups, wanted
        )
    rows = spatial_first(x).reshape(1, 1, positions, batch * channels)  # pixels of N*C channels
    to_y = spatial_first(grad).reshape(1, 1, positions, batch * channels)
    # Centred as in the forward pass, which shares it: sums over raw values would cancel far from zero.
    centred = rows - _to_channels(mean, channels)  # [1, 1, HW, N*C]
    means = _pixel_means(to_y).reshape(batch, channels)  # [N, C]
    aligned = _pixel_means(to_y * centred).reshape(batch, channels)  # [N, C]
    aligned = aligned * _to_channels(inverse, channels).reshape(batch, channels)  # of grad * normalised x
    pool = _group_means(channels, groups)
    scaled_means, scaled_aligned = (means, aligned) if weight is None else (means * weight, aligned * weight)
    offset = _to_channels(torch.mm(scaled_means, pool) * inverse, channels)  # [1, N*C]
    slope = _to_channels(torch.mm(scaled_aligned, pool) * inverse * inverse, channels)  # [1, N*C]
    to_x = to_y * _to_channels(inverse, channels, weight) - centred * slope - offset
    every_pixel = torch.full((1, batch), float(positions))  # of every image, from means to sums
    return (
        _to_images(to_x, x),
        torch.mm(every_pixel, aligned).reshape(channels) if wanted[1] else None,
        torch.mm(every_pixel, means).reshape(channels) if wanted[2] else None,
    )


def layer_norm(
    x: Tensor, shape: Sequence[int], weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """x [..., *shape] -> (y, mean [..., 1...], reciprocal deviation [..., 1...])."""
    size = math.prod(shape)
    centred, inverse, mean = _standardise(x.reshape(-1, size), eps)
    y = centred * inverse
    if weight is not None:
        y = y * weight.reshape(1, size)
    if bias is not None:
        y = y + bias.reshape(1, size)
    outer = [*x.shape[: x.dim() - len(shape)], *[1] * len(shape)]
    return y.reshape(x.shape), mean.reshape(outer), inverse.reshape(outer)


def layer_norm_backward(
    grad: Tensor,
    x: Tensor,
    shape: Sequence[int],
    mean: Tensor,
    inverse: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    wanted: Sequence[bool],
) -> Gradients:
    """Gradients of x, weight and bias from the output's gradient [..., *shape]."""
    del bias
    size = math.prod(shape)
    to_y = grad.reshape(-1, size)  # [R, L]
    normal = (x.reshape(-1, size) - mean.reshape(-1, 1)) * inverse.reshape(-1, 1)  # [R, L]
    to_normal = to_y if weight is None else to_y * weight.reshape(1, size)
    to_x = _standardise_backward(to_normal, normal, inverse.reshape(-1, 1))
    return (
        to_x.reshape(x.shape),
        column_sums(to_y * normal).reshape(list(shape)) if wanted[1] else None,
        column_sums(to_y).reshape(list(shape)) if wanted[2] else None,
    )


def batch_norm(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """x [N, C, …] -> (y, mean [C], reciprocal deviation [C]), by batch or (not training) running statistics."""
    del momentum
    rows = _channels_last(x)  # [N*HW, C]
    if training or running_mean is None or running_var is None:
        mean = column_sums(rows) * (1.0 / rows.shape[0])  # [1, C]
        centred = rows - mean
        inverse = torch.rsqrt(column_sums(centred * centred) * (1.0 / rows.shape[0]) + eps)  # [1, C]
    else:
        mean = running_mean.reshape(1, -1)
        centred = rows - mean
        inverse = torch.rsqrt(running_var.reshape(1, -1) + eps)
    y = centred * (inverse if weight is None else inverse * weight.reshape(1, -1))
    if bias is not None:
        y = y + bias.reshape(1, -1)
    return _channels_second(y, x), mean.reshape(-1), inverse.reshape(-1)


def batch_norm_backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    mean: Tensor | None,
    inverse: Tensor | None,
    training: bool,
    eps: float,
    wanted: Sequence[bool],
) -> Gradients:
    """Gradients of x, weight and bias from the output's gradient [N, C, …]."""
    if not training and running_mean is not None and running_var is not None:
        mean, inverse = running_mean, torch.rsqrt(running_var + eps)
    assert mean is not None
    assert inverse is not None
    to_y = _channels_last(grad)  # [R, C]
    scale = inverse.reshape(1, -1)
    normal = (_channels_last(x) - mean.reshape(1, -1)) * scale  # [R, C]
    sums, aligned = column_sums(to_y), column_sums(to_y * normal)  # [1, C]
    to_x = to_y
    if training:
        share = 1.0 / to_y.shape[0]
        to_x = to_y - sums * share - normal * (aligned * share)
    to_x = to_x * (scale if weight is None else scale * weight.reshape(1, -1))
    return (
        _channels_second(to_x, x),
        aligned.reshape(-1) if wanted[1] else None,
        sums.reshape(-1) if wanted[2] else None,
    )


def _standardise(rows: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """[R, L] -> (centred [R, L], reciprocal deviation [R, 1], mean [R, 1])."""
    share = 1.0 / rows.shape[1]
    mean = row_sums(rows) * share
    centred = rows - mean
    return centred, torch.rsqrt(row_sums(centred * centred) * share + eps), mean


def _standardise_backward(grad: Tensor, normal: Tensor, inverse: Tensor) -> Tensor:
    """Gradient [R, L] of the normalised rows -> gradient [R, L] of the rows."""
    share = 1.0 / grad.shape[1]
    return (grad - row_sums(grad) * share - normal * (row_sums(grad * normal) * share)) * inverse


def _group_norm_backward_by_rows(
    grad: Tensor,
    x: Tensor,
    mean: Tensor,
    inverse: Tensor,
    weight: Tensor | None,
    batch: int,
    channels: int,
    positions: int,
    groups: int,
    wanted: Sequence[bool],
) -> Gradients:
    rows = x.reshape(batch * groups, -1)  # [N*G, L]
    scale = inverse.reshape(-1, 1)  # [N*G, 1]
    normal = (rows - mean.reshape(-1, 1)) * scale  # [N*G, L]
    to_y = grad.reshape(batch, channels, positions)
    to_normal = to_y if weight is None else to_y * weight.reshape(1, channels, 1)
    to_x = _standardise_backward(to_normal.reshape(batch * groups, -1), normal, scale)
    aligned = row_sums((to_y * normal.reshape(to_y.shape)).reshape(-1, positions))  # [N*C, 1]
    sums = row_sums(to_y.reshape(-1, positions))  # [N*C, 1]
    return (
        to_x.reshape(x.shape),
        column_sums(aligned.reshape(batch, channels)).reshape(channels) if wanted[1] else None,
        column_sums(sums.reshape(batch, channels)).reshape(channels) if wanted[2] else None,
    )


def _pixel_means(x: Tensor) -> Tensor:
    """[1, 1, HW, C] -> [1, C].

    Pixels rather than rows, as the averages that these means become want them: another shape of a tensor that has
    other uses is a copy to XNNPACK.
    """
    return column_means(x.reshape(-1, x.shape[3]))


def _group_means(channels: int, groups: int) -> Tensor:
    """[C, G]: turns means per channel into means per group."""
    members = channels // groups
    return torch.eye(groups).repeat_interleave(members, dim=0) * (1.0 / members)


def _to_channels(per_group: Tensor, channels: int, weight: Tensor | None = None) -> Tensor:
    """[N, G] -> [1, N*C], each value once per channel of its group, times weight [C]."""
    groups = per_group.shape[1]
    spread = torch.mm(per_group, torch.eye(groups).repeat_interleave(channels // groups, dim=1))  # [N, C]
    return (spread if weight is None else spread * weight).reshape(1, -1)


def _to_images(rows: Tensor, like: Tensor) -> Tensor:
    """[…, HW, N*C] -> [N, C, H, W]."""
    batch, channels, height, width = like.shape
    return batch_first(rows.reshape(height, width, batch, channels))


def _channels_last(x: Tensor) -> Tensor:
    """[N, C, …] -> [R, C], rows in the order H, W, N for images."""
    if x.dim() == 4:
        return spatial_first(x).reshape(-1, x.shape[1])
    return x if x.dim() == 2 else x.permute(0, 2, 1).reshape(-1, x.shape[1])


def _channels_second(rows: Tensor, like: Tensor) -> Tensor:
    """The inverse of `_channels_last`."""
    if like.dim() == 4:
        return _to_images(rows, like)
    if like.dim() == 2:
        return rows
    batch, channels, length = like.shape
    return rows.reshape(batch, length, channels).permute(0, 2, 1)

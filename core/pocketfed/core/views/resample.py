"""Cropping, shifting, flipping and resizing as two matrix products, the form that every runtime is fast at.

A bilinear resampling of rows and columns is separable: `rows @ image @ columns^T` with
`A[i, j] = max(0, 1 - |source(i) - j|)`, where source(i) is the place in the input that output i looks at.
"""

import torch
from torch import Tensor


def interpolation(source: Tensor, size: int) -> Tensor:
    """Bilinear interpolation matrices.

    Args:
        source: float32 [n, outputs], places in units of input pixels; outside [0, size - 1] the edge is repeated.
        size: number of inputs.

    Returns:
        float32 [n, outputs, size]; each row is non-negative and sums to 1.
    """
    inside = torch.clamp(source, 0.0, float(size - 1))
    grid = torch.arange(size, dtype=torch.float32)
    return torch.relu(1.0 - (inside.unsqueeze(2) - grid).abs())


def centres(outputs: int) -> Tensor:
    """float32 [1, outputs]: the middle of each output pixel, the whole axis being [0, 1]."""
    return ((torch.arange(outputs, dtype=torch.float32) + 0.5) / outputs).unsqueeze(0)


def resample(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Apply interpolation matrices to a batch.

    Args:
        images: float32 [n, channels, height, width].
        rows: float32 [n, h, height].
        columns: float32 [n, w, width].

    Returns:
        float32 [n, channels, h, w].
    """
    n, channels, height, width = images.shape
    h, w = rows.shape[1], columns.shape[1]
    # Columns first: one product per image for all its channels and rows.
    x = torch.bmm(images.reshape(n, channels * height, width), columns.transpose(1, 2))  # [n, c * height, w]
    x = x.reshape(n, channels, height, w).permute(0, 2, 1, 3).reshape(n, height, channels * w)
    x = torch.bmm(rows, x)  # [n, h, c * w]
    return x.reshape(n, h, channels, w).permute(0, 2, 1, 3)

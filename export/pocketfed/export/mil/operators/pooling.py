"""Pooling over one to three spatial axes."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from pocketfed.export.mil.operators.arguments import each, last_first
from pocketfed.export.mil.operators.windows import window_padding

AVERAGE: tuple[Any, ...] = (functional.avg_pool1d, functional.avg_pool2d, functional.avg_pool3d)
LARGEST: tuple[Any, ...] = (functional.max_pool1d, functional.max_pool2d, functional.max_pool3d)


def avg_pool(
    x: Tensor,
    kernel_sizes: Tensor,
    strides: Tensor | None = None,
    pad_type: str = "valid",
    pad: Tensor | None = None,
    exclude_padding_from_average: Tensor | bool = False,
    ceil_mode: Tensor | bool = False,
) -> Tensor:
    """The mean of each window, of what is padded too unless it is excluded."""
    pool, kernel, steps, amounts = _window(x, AVERAGE, kernel_sizes, strides, pad_type, pad, ceil_mode)
    mean: Tensor = pool(functional.pad(x, amounts), kernel, steps)
    if bool(exclude_padding_from_average):
        mean = mean / pool(functional.pad(torch.ones_like(x), amounts), kernel, steps)
    return mean


def max_pool(
    x: Tensor,
    kernel_sizes: Tensor,
    strides: Tensor | None = None,
    pad_type: str = "valid",
    pad: Tensor | None = None,
    ceil_mode: Tensor | bool = False,
) -> Tensor:
    """The largest element of each window."""
    pool, kernel, steps, amounts = _window(x, LARGEST, kernel_sizes, strides, pad_type, pad, ceil_mode)
    largest: Tensor = pool(functional.pad(x, amounts, value=float("-inf")), kernel, steps)
    return largest


def _window(
    x: Tensor, pools: tuple[Any, ...], kernel_sizes: Tensor, strides: Tensor | None, pad_type: str,
    pad: Tensor | None, ceil_mode: Tensor | bool,
) -> tuple[Any, list[int], list[int], list[int]]:  # fmt: skip
    if bool(ceil_mode):
        raise ValueError("pooling that rounds sizes up is not known here")
    axes = x.dim() - 2
    kernel, steps = each(kernel_sizes, axes), each(strides, axes, 1)
    amounts = window_padding(x.shape[2:], kernel, steps, [1] * axes, pad_type, pad)
    return pools[axes - 1], kernel, steps, last_first(amounts)


OPERATORS: dict[str, Callable[..., Any]] = {"avg_pool": avg_pool, "max_pool": max_pool}

"""Normalisation with given or with the input's own statistics."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from pocketfed.export.mil.operators.arguments import integers, places


def batch_norm(
    x: Tensor,
    mean: Tensor,
    variance: Tensor,
    gamma: Tensor | None = None,
    beta: Tensor | None = None,
    epsilon: Tensor | float = 1e-5,
) -> Tensor:
    """With given statistics, by channel (axis 1)."""
    return functional.batch_norm(x, mean, variance, gamma, beta, False, 0.0, float(epsilon))


def instance_norm(
    x: Tensor, gamma: Tensor | None = None, beta: Tensor | None = None, epsilon: Tensor | float = 1e-5
) -> Tensor:
    """With the statistics of each channel of each example."""
    return functional.instance_norm(x, weight=gamma, bias=beta, eps=float(epsilon))


def layer_norm(
    x: Tensor,
    axes: Tensor,
    gamma: Tensor | None = None,
    beta: Tensor | None = None,
    epsilon: Tensor | float = 1e-5,
) -> Tensor:
    """With the statistics over these axes."""
    over = places(integers(axes), x.dim())
    centred = x - x.mean(over, True)
    normal = centred * torch.rsqrt((centred * centred).mean(over, True) + float(epsilon))
    shape = [size if axis in over else 1 for axis, size in enumerate(x.shape)]
    if gamma is not None:
        normal = normal * gamma.reshape(shape)
    return normal if beta is None else normal + beta.reshape(shape)


def l2_norm(x: Tensor, epsilon: Tensor | float = 1e-6) -> Tensor:
    """To length one over the last three axes."""
    over = list(range(max(0, x.dim() - 3), x.dim()))
    return x / torch.sqrt((x * x).sum(over, True) + float(epsilon))


OPERATORS: dict[str, Callable[..., Any]] = {
    "batch_norm": batch_norm,
    "instance_norm": instance_norm,
    "l2_norm": l2_norm,
    "layer_norm": layer_norm,
}

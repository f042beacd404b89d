"""Operators that fold axes."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pocketfed.export.mil.operators.arguments import integers_or

Fold = Callable[[Tensor, list[int], bool], Tensor]


def _reduction(fold: Fold) -> Callable[..., Tensor]:
    def reduce(x: Tensor, axes: Tensor | None = None, keep_dims: Tensor | bool = False) -> Tensor:
        return fold(x, integers_or(axes, list(range(x.dim()))), bool(keep_dims))

    return reduce


FOLDS: dict[str, Fold] = {
    "reduce_l1_norm": lambda x, axes, keep: x.abs().sum(axes, keep),
    "reduce_l2_norm": lambda x, axes, keep: torch.sqrt((x * x).sum(axes, keep)),
    "reduce_log_sum_exp": lambda x, axes, keep: torch.logsumexp(x, axes, keep),
    "reduce_max": lambda x, axes, keep: x.amax(axes, keep),
    "reduce_mean": lambda x, axes, keep: x.mean(axes, keep),
    "reduce_min": lambda x, axes, keep: x.amin(axes, keep),
    "reduce_sum": lambda x, axes, keep: x.sum(axes, keep),
    "reduce_sum_square": lambda x, axes, keep: (x * x).sum(axes, keep),
}


def reduce_argmax(
    x: Tensor, axis: Tensor | int = -1, keep_dims: Tensor | bool = True, output_dtype: str = "int32"
) -> Tensor:
    """Where the largest element is."""
    return x.argmax(int(axis), bool(keep_dims)).to(torch.int32)


def softmax(x: Tensor, axis: Tensor | int = -1) -> Tensor:
    """Exponentials, divided by their sum."""
    return torch.softmax(x, int(axis))


def cumsum(
    x: Tensor, axis: Tensor | int = 0, exclusive: Tensor | bool = False, reverse: Tensor | bool = False
) -> Tensor:
    """Running sums, from either end, with or without the element itself."""
    at = int(axis)
    turned = x.flip(at) if bool(reverse) else x
    sums = torch.cumsum(turned, at)
    if bool(exclusive):
        sums = sums - turned
    return sums.flip(at) if bool(reverse) else sums


OPERATORS: dict[str, Callable[..., Any]] = {
    **{name: _reduction(fold) for name, fold in FOLDS.items()},
    "cumsum": cumsum,
    "reduce_argmax": reduce_argmax,
    "softmax": softmax,
}

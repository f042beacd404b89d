"""Batch normalisation that also updates running statistics, as results and not in place."""

from torch import Tensor

from pocketfed.export.lowering.operators.normalisation import batch_norm


def batch_norm_without_statistics(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, training: bool, momentum: float, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """x [N, C, …] -> (y, mean [C], reciprocal deviation [C]), by the batch's own statistics."""
    return batch_norm(x, weight, bias, None, None, training, momentum, eps)


def batch_norm_with_statistics(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor,
    running_var: Tensor,
    training: bool,
    momentum: float,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """x [N, C, …] -> (y, mean [C], reciprocal deviation [C], running mean' [C], running variance' [C]).

    Running statistics move by `momentum` towards the batch's mean and unbiased variance.
    """
    y, mean, inverse = batch_norm(x, weight, bias, running_mean, running_var, training, momentum, eps)
    if not training:
        return y, mean, inverse, running_mean, running_var
    count = x.numel() // x.shape[1]
    variance = (1.0 / (inverse * inverse) - eps) * (count / (count - 1))
    kept = 1.0 - momentum
    return (
        y,
        mean,
        inverse,
        running_mean * kept + mean * momentum,
        running_var * kept + variance * momentum,
    )

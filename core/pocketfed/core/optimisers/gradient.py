"""What may happen to a gradient before the optimiser sees it."""

import hashlib
from dataclasses import replace

import torch
from torch import Tensor

from pocketfed.core.optimisers.optimiser import Optimiser, Rates


def proximal(gradient: Tensor, theta: Tensor, anchor: Tensor, strength: Tensor) -> Tensor:
    """Gradient [p] of the loss plus FedProx's term, strength / 2 |theta - anchor|^2 (Li et al., 2020, equation 2)."""
    return gradient + strength * (theta - anchor)


def multiplied(optimiser: Optimiser, multipliers: Tensor) -> Optimiser:
    """The optimiser on gradients times constants, one for each trained weight (FedRepOpt's gradient masks).

    The constants become part of the exported program. Weight decay is not multiplied.

    Args:
        optimiser: to wrap.
        multipliers: float32 [p], finite.

    Raises:
        ValueError: they are not such a vector.
    """
    if multipliers.dim() != 1 or multipliers.dtype != torch.float32 or not multipliers.isfinite().all():
        raise ValueError("multipliers must be one vector of finite float32")
    constants = multipliers.clone()
    digest = hashlib.sha256(constants.numpy().tobytes()).hexdigest()[:16]

    def update(theta: Tensor, gradient: Tensor, state: Tensor, rates: Rates) -> tuple[Tensor, Tensor]:
        return optimiser.update(theta, gradient * constants, state, rates)

    return replace(optimiser, name=f"{optimiser.name} on gradients times {digest}", update=update)

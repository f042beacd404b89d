"""What happens to a gradient before the optimiser sees it: multiplied first, then the proximal term."""

from torch import Tensor


def multiplied(gradient: Tensor, multipliers: Tensor | None) -> Tensor:
    """Gradient [p] of the loss, each element times a constant of its own (FedRepOpt's gradient masks), if there are any.

    Neither the proximal term nor weight decay is multiplied: the multi-branch network whose training the constants
    imitate (`backbones/linear_branches.py`) has them on its own weights, and both are linear.
    """
    return gradient if multipliers is None else gradient * multipliers


def proximal(gradient: Tensor, theta: Tensor, anchor: Tensor, strength: Tensor) -> Tensor:
    """Gradient [p] plus that of FedProx's term, strength / 2 |theta - anchor|^2 (Li et al., 2020, equation 2)."""
    return gradient + strength * (theta - anchor)

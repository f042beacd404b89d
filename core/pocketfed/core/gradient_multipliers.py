"""Constants with which parts of a network want the gradients of their weights multiplied (FedRepOpt)."""

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from pocketfed.core.layout import Layout


@runtime_checkable
class HasMultipliers(Protocol):
    """A module with weights whose gradients are to be multiplied."""

    def gradient_multipliers(self) -> dict[str, Tensor]:
        """By the weight's name within the module, of the weight's shape; float32 and finite."""
        ...


def gradient_multipliers(module: nn.Module, layout: Layout) -> Tensor | None:
    """The constants of all trained weights in the order of their layout, or None if no part of the module has any.

    Returns:
        float32 [layout.trained], one for weights without a constant.

    Raises:
        ValueError: a constant is not finite, or has no weight of its name and shape.
    """
    wanted = {
        f"{owner}.{name}": constants
        for owner, part in module.named_modules()
        if isinstance(part, HasMultipliers)
        for name, constants in part.gradient_multipliers().items()
    }
    if not wanted:
        return None
    if bad := [name for name, constants in wanted.items() if not constants.isfinite().all()]:
        raise ValueError(f"gradient multipliers are not finite: {bad}")
    ones = {part.name: torch.ones(part.shape) for part in layout.slices}
    return layout.pack(ones | wanted)[: layout.trained].clone()

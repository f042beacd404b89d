"""Decisions from uniform random numbers, without comparisons, which not every delegate takes."""

import torch
from torch import Tensor

SHARP = 1e6


def happens(noise: Tensor, probability: float) -> Tensor:
    """1 where `noise` (uniform in [0, 1)) is below `probability`, else 0; float32, same shape.

    Within 1e-6 of the threshold the answer lies between the two.
    """
    return torch.clamp((probability - noise) * SHARP, 0.0, 1.0)


def between(noise: Tensor, low: float, high: float) -> Tensor:
    """Stretch uniform numbers in [0, 1) to [low, high)."""
    return noise * (high - low) + low

"""What a slice of the weights is for; layer-wise rules and partial models choose by it."""

from enum import StrEnum


class Role(StrEnum):
    """What a slice is for."""

    BACKBONE = "backbone"
    PROJECTOR = "projector"
    BUFFER = "buffer"
    """Running statistics: written by the forward pass, read when embedding, never given a gradient."""

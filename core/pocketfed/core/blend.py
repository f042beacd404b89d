"""What a phone begins a round with: the server's weights, or a blend of them with its own."""

from dataclasses import dataclass
from enum import StrEnum


class BlendRule(StrEnum):
    """How a phone's own weights, those after its last round, come in."""

    NONE = "none"
    """Not at all."""

    FEDEMA = "fedema"
    """mu times its own, 1 - mu times the server's; the further it moved, the larger mu."""

    FEDU = "fedu"
    """The server's, but its own projector if it moved further than a threshold."""


@dataclass(frozen=True)
class Blend:
    """Numbers of the rule; `mobile_client/blending.py` has the formulas.

    Attributes:
        rule: which.
        tau: FedEMA's mu when a phone blends for the first time, in (0, 1].
        threshold: FedU's, of the distance that a phone's last training went; not negative.
    """

    rule: BlendRule = BlendRule.NONE
    tau: float = 0.7
    threshold: float = 0.4

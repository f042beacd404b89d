"""What an edge server sends up in place of an update: the running sums of its own phones' updates."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pocketfed.core.modality import Modality

MOST_BUNDLES = 8
"""Bundles that a round's figures name, the most frequent ones: what phones say must not grow without bound."""


@dataclass(frozen=True)
class Part:
    """One part of a cohort, folded and not yet divided by anything, so that parts can be added.

    Sums travel in float64, as they are kept: twice the bytes of an update, whatever the number of phones. With means
    in float32 a tree would differ from a flat fold by more than rounding where the factors of a rule have both signs:
    totals that cancel, and denominators near zero, magnify the error.

    Attributes:
        total: float64 [sums, p], weighted sums of the updates' weights.
        weight: float64 [sums, slices], sums of the factors that each slice of the layout was given.
        updates: how many were added; an edge of an edge counts the phones behind it.
        rule: how they were folded: the rule with its settings.
        seen: captures processed over all updates, by modality.
        loss: mean over the updates, weighted by their captures, by modality.
        failures: how many phones' updates did not count, by kind.
        round: the plan's.
        layout: the instruction's.
        bundles: how many of the updates were made with which bundle, by its id; at most `MOST_BUNDLES`.
    """

    total: NDArray[np.float64]
    weight: NDArray[np.float64]
    updates: int
    rule: str
    seen: Mapping[Modality, int] = field(default_factory=dict)
    loss: Mapping[Modality, float] = field(default_factory=dict)
    failures: Mapping[str, int] = field(default_factory=dict)
    round: int = 0
    layout: str = ""
    bundles: Mapping[str, int] = field(default_factory=dict)

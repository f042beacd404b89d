"""The guard before every fold: nothing that a phone sends may stop or poison a run."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pocketfed.core.errors import UpdateRejected
from pocketfed.core.modality import Modality
from pocketfed.core.plan import Update
from pocketfed.server.aggregators import Broadcast
from pocketfed.server.aggregators.aggregator import distance


@dataclass(frozen=True)
class Guard:
    """Bounds that an honest update keeps.

    Attributes:
        most_examples: captures that a phone can have processed in one round.
        furthest: largest change, as a multiple of the norm of the weights the round began with.
        highest_loss: in either direction; NT-Xent stays far below at any useful temperature.
        most_phones: updates that one edge server can have folded in one round.
    """

    most_examples: int = 1_000_000
    furthest: float = 10.0
    highest_loss: float = 1e4
    most_phones: int = 10_000

    def check(self, update: Update, begun: Broadcast) -> Update:
        """The update, unchanged.

        Args:
            update: what a phone sent.
            begun: what the round began with for which the phone was asked.

        Raises:
            UpdateRejected: round, layout, shape, dtype, a number that is not finite, or a bound; the message says
                which.
        """
        weights = update.weights
        if update.round != begun.round:
            raise UpdateRejected(
                f"the update belongs to round {update.round}, the phone was asked for round {begun.round}"
            )
        if update.layout != begun.layout.digest:
            raise UpdateRejected(f"weights have the layout {update.layout[:12]!r}, not this run's")
        if weights.dtype != np.float32 or weights.shape != begun.weights.shape:
            raise UpdateRejected(
                f"weights are {weights.dtype} {list(weights.shape)}, expected float32 {list(begun.weights.shape)}"
            )
        if not 1 <= update.examples <= self.most_examples:
            raise UpdateRejected(f"{update.examples} examples, expected 1 to {self.most_examples}")
        self.check_losses(update.loss)
        for modality, seen in update.seen.items():
            if not 0 <= seen <= update.examples:
                raise UpdateRejected(f"{seen} {modality}s among {update.examples} examples")
        change, reference = distance(weights, begun.weights), begun.norm
        if not math.isfinite(change):
            raise UpdateRejected("weights are not finite")
        if change > self.furthest * reference:
            raise UpdateRejected(
                f"weights moved by {change:.3g}, more than {self.furthest:g} times their norm {reference:.3g}"
            )
        return update

    def objection(self, weights: NDArray[np.float32], begun: Broadcast, anywhere: bool = False) -> str | None:
        """Why a round cannot end with the model that a rule has made of updates which each kept the bounds, or None.

        Args:
            weights: float32 [p], of the new model.
            begun: what the round began with.
            anywhere: whether it may be any finite distance from that.
        """
        moved, norm = distance(weights, begun.weights), distance(weights, np.zeros_like(weights))
        if math.isfinite(moved) and (anywhere or moved <= self.furthest * begun.norm):
            return None
        return (
            f"the rule has made a model of norm {norm:.3g}, {moved:.3g} away from the weights that round {begun.round} began "
            f"with, whose norm is {begun.norm:.3g}; no phone may move them by more than {self.furthest:g} times that. The "
            "model is not used; choose a robust aggregator such as median, or bound updates more tightly (furthest)"
        )

    def check_losses(self, losses: Mapping[Modality, float]) -> None:
        """Nothing, if they are losses that a step can have.

        Raises:
            UpdateRejected: one is too far from zero, or no number.
        """
        for modality, loss in losses.items():
            if not abs(loss) <= self.highest_loss:  # also true of a loss that is no number
                raise UpdateRejected(
                    f"the loss of {modality} is {loss:g}, expected at most {self.highest_loss:g}"
                )

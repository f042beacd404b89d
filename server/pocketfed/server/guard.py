"""The guard before every fold: nothing that a phone sends may stop or poison a run."""

from dataclasses import dataclass

import numpy as np

from pocketfed.core.errors import UpdateRejected
from pocketfed.core.plan import Update
from pocketfed.server.aggregators import Broadcast


@dataclass(frozen=True)
class Guard:
    """Bounds that an honest update keeps.

    Attributes:
        most_examples: captures that a phone can have processed in one round.
        furthest: largest change, as a multiple of the norm of the weights the round began with.
    """

    most_examples: int = 1_000_000
    furthest: float = 10.0

    def check(self, update: Update, begun: Broadcast) -> Update:
        """The update, unchanged.

        Raises:
            UpdateRejected: shape, dtype, a number that is not finite, or a bound; the message says which.
        """
        weights = update.weights
        if weights.dtype != np.float32 or weights.shape != begun.weights.shape:
            raise UpdateRejected(
                f"weights are {weights.dtype} {list(weights.shape)}, expected float32 {list(begun.weights.shape)}"
            )
        if not 1 <= update.examples <= self.most_examples:
            raise UpdateRejected(f"{update.examples} examples, expected 1 to {self.most_examples}")
        bad = [str(modality) for modality, loss in update.loss.items() if not np.isfinite(loss)]
        if bad:
            raise UpdateRejected(f"the loss of {' and '.join(bad)} is not finite")
        if not np.isfinite(weights).all():
            raise UpdateRejected("weights are not finite")
        # In float64: the square of a finite float32 may not be finite.
        change = np.linalg.norm(weights.astype(np.float64) - begun.weights)
        reference = np.linalg.norm(begun.weights.astype(np.float64))
        if change > self.furthest * reference:
            raise UpdateRejected(
                f"weights moved by {change:.3g}, more than {self.furthest:g} times their norm {reference:.3g}"
            )
        return update

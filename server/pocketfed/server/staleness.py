"""Late updates: what a change is worth that was learnt from older weights, and how it is brought up to date.

A phone that began with the weights w_k, tau rounds ago, and ended with w'_k counts as if it had begun with the newest
ones (Nguyen et al., "Federated Learning with Buffered Asynchronous Aggregation", 2022):

    w' = w + eta (w'_k - w_k)

so that every rule sees updates that began where the round began. The discount s(tau) is that of Xie et al.,
"Asynchronous Federated Optimization", 2019:

    constant    1
    polynomial  (1 + tau)^-a
    hinge       1 if tau <= b, else 1 / (a (tau - b) + 1)

and applies either to the update's weight in a mean, or to the change itself (w' = w + eta s(tau) (w'_k - w_k)), which is
FedBuff's formula and means something in a mean of one, too. Running statistics are no changes but places: they are
not moved along but drawn towards the phone's, w' = w + min(1, factor) (w'_k - w), which keeps variances positive (our
choice).
"""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pocketfed.core.errors import UpdateRejected
from pocketfed.core.layout import Layout
from pocketfed.core.plan import Update


@dataclass(frozen=True)
class Staleness:
    """What updates are worth that are late.

    Attributes:
        longest: rounds that an update may be behind; an older one is refused.
        decay: the name of s, see the module.
        a, b: its numbers; b is the hinge's alone.
        discounts: what s(tau) is applied to, the `weight` in a mean or the `step` itself.
        step: eta, by which every change is multiplied, late or not.
    """

    longest: int = 0
    decay: Literal["constant", "polynomial", "hinge"] = "constant"
    a: float = 0.5
    b: int = 4
    discounts: Literal["weight", "step"] = "weight"
    step: float = 1.0

    def discount(self, tau: int) -> float:
        """s(tau), in (0, 1].

        >>> Staleness(decay="polynomial").discount(3)
        0.5
        >>> Staleness(decay="hinge", a=10.0, b=4).discount(5)
        0.09090909090909091
        """
        match self.decay:
            case "constant":
                return 1.0
            case "polynomial":
                return float((1 + tau) ** -self.a)
            case "hinge":
                return 1.0 if tau <= self.b else 1 / (self.a * (tau - self.b) + 1)

    def apply(
        self, update: Update, base: NDArray[np.float32], now: NDArray[np.float32], tau: int, layout: Layout
    ) -> Update:
        """The update as if it had begun with the newest weights.

        Args:
            update: as the guard let it through.
            base: float32 [p], the weights that it began with.
            now: float32 [p], the newest.
            tau: rounds between them.
            layout: of all three.

        Raises:
            UpdateRejected: the result is not finite.
        """
        discount = self.discount(tau)
        factor = self.step * (discount if self.discounts == "step" else 1.0)
        if tau > 0 or factor != 1.0:
            with np.errstate(over="ignore"):
                weights = _moved(update.weights, base, now, factor, layout.trained)
            if not np.isfinite(weights).all():
                raise UpdateRejected("weights are not finite once they are brought up to date")
            update = replace(update, weights=weights)
        return (
            replace(update, discount=discount) if self.discounts == "weight" and discount != 1.0 else update
        )


def _moved(
    after: NDArray[np.float32],
    base: NDArray[np.float32],
    now: NDArray[np.float32],
    factor: float,
    trained: int,
) -> NDArray[np.float32]:
    """See the module; `trained` is where running statistics begin. Float64 inside."""
    moved = np.subtract(after, base, dtype=np.float64)
    moved[trained:] = np.subtract(after[trained:], now[trained:], dtype=np.float64)
    moved[:trained] *= factor
    moved[trained:] *= min(1.0, factor)
    return (moved + now).astype(np.float32)

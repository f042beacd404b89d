"""The clipping norm follows a quantile of the updates' norms (Andrew et al., 2021).

    b_k = [|d_k| <= C]        b = 1/2 + (sum_k (b_k - 1/2) + N(0, s^2)) / m        C <- C exp(-rate (b - quantile))

m is the fixed number of updates that a round expects. With 1/2 subtracted an update adds 1/2 or -1/2 to the sum, and an
answer that is refused, which is what a neighbouring run has in its place (`accountant`), adds nothing: the sums differ
by 1/2. An update that changes no weight is within the norm and adds 1/2. The noise on the count is paid for by a little more noise on the weights: with z the noise
multiplier that the accountant is told, and z' the one of the weights,

    1 / z^2 = 1 / z'^2 + 1 / (2 s)^2
"""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class AdaptiveClip:
    """See the module's docstring.

    Attributes:
        quantile: share of the updates that are to be left as they are, in [0, 1].
        rate: of the steps that the norm takes, on a logarithmic scale.
        noise: s, standard deviation of the noise on the count of such updates; more than half the noise multiplier.
    """

    quantile: float
    rate: float
    noise: float

    def weights_multiplier(self, noise_multiplier: float) -> float:
        """z', for z."""
        return float((noise_multiplier**-2 - (2 * self.noise) ** -2) ** -0.5)

    def next(self, clip: float, centred: float, expected: int, normal: float) -> float:
        """The norm of the next round.

        Args:
            clip: of this one.
            centred: sum over the updates of +1/2 for one within the norm, of -1/2 for another.
            expected: m.
            normal: a standard normal number.
        """
        below = 0.5 + (centred + self.noise * normal) / expected
        return clip * math.exp(-self.rate * (below - self.quantile))

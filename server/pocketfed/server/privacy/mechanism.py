"""What is done to a cohort's updates before anybody sees their mean."""

from dataclasses import dataclass

from pocketfed.server.privacy.adaptive_clip import AdaptiveClip


@dataclass(frozen=True)
class Mechanism:
    """The Gaussian mechanism of DP-FedAvg (McMahan et al., 2018).

    Attributes:
        noise_multiplier: z, standard deviation of the noise on the sum of changes, in units of the clipping norm.
        clip: C, largest norm of the change that a phone contributes; where an adaptive norm begins.
        updates: m, how many updates a round is expected to fold. The sum is divided by it whatever the number was.
        adaptive: how the norm follows the updates; None keeps it.
    """

    noise_multiplier: float
    clip: float
    updates: int
    adaptive: AdaptiveClip | None = None

    @property
    def weights_multiplier(self) -> float:
        """Standard deviation of the noise on the weights' sum, in units of the clipping norm; z or a little more."""
        if self.adaptive is None:
            return self.noise_multiplier
        return self.adaptive.weights_multiplier(self.noise_multiplier)

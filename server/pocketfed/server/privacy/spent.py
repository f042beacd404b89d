"""What a run has given away, as of one round."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Spent:
    """The privacy that all rounds so far have cost together.

    Attributes:
        epsilon, delta: a phone's captures change the probability of anything that follows from the released models
            by a factor of at most exp(epsilon), but for a probability of at most delta.
        budget: what epsilon may become.
        clip: the norm to which updates of the next round are clipped.
    """

    epsilon: float
    delta: float
    budget: float
    clip: float

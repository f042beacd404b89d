"""What the server asks of a phone in one round, and what the phone answers."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pocketfed.core.hyper import Hyper
from pocketfed.core.modality import Modality


@dataclass(frozen=True)
class Plan:
    """One round's work on one phone.

    Attributes:
        round: from 1.
        seed: of the run; a phone derives its own numbers from it, the round and its own identity.
        epochs: passes over the phone's captures of each modality.
        mixed: whether a batch mixes modalities (where the phone has both); sequential otherwise.
        hyper: the numbers of every step of the round.
    """

    round: int
    seed: int
    epochs: Mapping[Modality, int]
    mixed: bool
    hyper: Hyper


@dataclass(frozen=True)
class Update:
    """What a phone sends back.

    Attributes:
        weights: float32 [p], after training.
        examples: captures processed, over all epochs and modalities; the weight of this update in an average.
        seen: the captures processed, by modality.
        loss: mean over the round's steps, by modality; a step on a mixed batch counts for both.
    """

    weights: NDArray[np.float32]
    examples: int
    seen: Mapping[Modality, int] = field(default_factory=dict)
    loss: Mapping[Modality, float] = field(default_factory=dict)

"""What a configuration asks of phones, round by round."""

import math

from pocketfed.core.hyper import Hyper
from pocketfed.core.modality import Modality
from pocketfed.core.plan import Plan
from pocketfed.simulator.config import Config


def plan_of(config: Config, round_number: int) -> Plan:
    """What phones do in a round, counted from 1."""
    learning = config.learning
    fall = 0.5 * (1 + math.cos(math.pi * (round_number - 1) / config.rounds)) if learning.cosine else 1.0
    hyper = Hyper(
        learning.learning_rate * fall, learning.momentum, learning.weight_decay, learning.proximal,
        learning.temperature, learning.second_momentum, learning.epsilon,
    )  # fmt: skip
    epochs = {Modality.PHOTO: learning.photo_epochs, Modality.SOUND: learning.sound_epochs}
    return Plan(round_number, config.seed, epochs, learning.mode == "mixed", hyper)

"""What a configuration asks of phones, round by round, and how it takes what they answer."""

import math
from dataclasses import replace

from pocketfed.core.blend import Blend
from pocketfed.core.hyper import Hyper
from pocketfed.core.modality import Modality
from pocketfed.core.plan import Plan
from pocketfed.core.travel import Travel
from pocketfed.server.staleness import Staleness
from pocketfed.server.terms import Buffered
from pocketfed.simulator.config import Config


def plan_of(config: Config, round_number: int, run: str) -> Plan:
    """What phones do in a round, counted from 1, of the run with this id."""
    learning = config.learning
    fall = 0.5 * (1 + math.cos(math.pi * (round_number - 1) / config.rounds)) if learning.cosine else 1.0
    hyper = hyper_of(config)
    hyper = replace(hyper, learning_rate=hyper.learning_rate * fall)
    blend = Blend(learning.blend, learning.blend_tau, learning.blend_threshold)
    mixed = learning.mode == "mixed"
    return Plan(round_number, config.seed, epochs_of(config), mixed, hyper, blend, run)


def hyper_of(config: Config) -> Hyper:
    """What phones' steps are told in the first round."""
    learning = config.learning
    return Hyper(
        learning.learning_rate, learning.momentum, learning.weight_decay, learning.proximal,
        learning.temperature, learning.second_momentum, learning.epsilon,
    )  # fmt: skip


def epochs_of(config: Config) -> dict[Modality, int]:
    """Passes over a phone's captures in a round."""
    return {Modality.PHOTO: config.learning.photo_epochs, Modality.SOUND: config.learning.sound_epochs}


def travel_of(config: Config) -> Travel:
    """What travels between server and phones."""
    wanted = config.exchange
    return Travel(wanted.travels, wanted.download_format, wanted.update_format)


def buffered_of(config: Config) -> Buffered | None:
    """How rounds take updates that do not wait for their phones; None if rounds wait."""
    wanted = config.asynchronous
    if not wanted.enabled:
        return None
    hinge = wanted.staleness == "hinge"
    staleness = Staleness(
        longest=wanted.max_staleness,
        decay=wanted.staleness,
        a=wanted.hinge_slope if hinge else wanted.exponent,
        b=wanted.hinge_after,
        discounts=wanted.discounts,
        step=wanted.step,
    )
    return Buffered(wanted.buffer, wanted.concurrency, staleness)

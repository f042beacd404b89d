"""What the server asks of a phone in one round, what the phone answers, and what it says of itself."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pocketfed.core.blend import Blend
from pocketfed.core.formats import Format, Packed
from pocketfed.core.hyper import Hyper
from pocketfed.core.modality import Modality
from pocketfed.core.role import Role

PACKED: NDArray[np.float32] = np.empty(0, dtype=np.float32)
"""In place of weights that are still packed."""


@dataclass(frozen=True)
class Plan:
    """One round's work on one phone.

    Attributes:
        round: from 1.
        seed: of the run; a phone derives its own numbers from it, the round and its own identity.
        epochs: passes over the phone's captures of each modality.
        mixed: whether a batch mixes modalities (where the phone has both); sequential otherwise.
        hyper: the numbers of every step of the round.
        blend: what of its own a phone begins the round with.
        run: id of the run, which no other one has, whatever its seed: what a phone remembers belongs to it.
    """

    round: int
    seed: int
    epochs: Mapping[Modality, int]
    mixed: bool
    hyper: Hyper
    blend: Blend = field(default_factory=Blend)
    run: str = ""


@dataclass(frozen=True)
class Instruction:
    """What a phone is sent: the plan, and the weights to begin with.

    Attributes:
        plan: of the round.
        weights: float32 [p], the part of the model that travels; `PACKED` while they are.
        layout: digest of the layout of that part; a phone whose bundle has another one must not train.
        roles: of the slices that travel.
        wanted: format of the answer.
        packed: the weights, if they are not float32.
    """

    plan: Plan
    weights: NDArray[np.float32]
    layout: str
    roles: tuple[Role, ...] = tuple(Role)
    wanted: Format = Format.FLOAT32
    packed: Packed | None = None


@dataclass(frozen=True)
class Update:
    """What a phone sends back.

    Attributes:
        weights: float32 [p], the part of the model that travels, after training; `PACKED` while they are.
        examples: captures processed, over all epochs and modalities.
        seen: the captures processed, by modality.
        loss: mean over the round's steps, by modality; a step on a mixed batch counts for both.
        round: the plan's.
        layout: the instruction's.
        discount: in (0, 1]; the server's, for an update that is not of the newest weights.
        packed: the change that training made, if it is not the weights as float32 that came.
        bundle: id of the bundle that it was made with; "" if nobody said.
    """

    weights: NDArray[np.float32]
    examples: int
    seen: Mapping[Modality, int] = field(default_factory=dict)
    loss: Mapping[Modality, float] = field(default_factory=dict)
    round: int = 0
    layout: str = ""
    discount: float = 1.0
    packed: Packed | None = None
    bundle: str = ""

    @property
    def count(self) -> float:
        """The weight of this update in an average."""
        return self.examples * self.discount

    @property
    def format(self) -> Format:
        """How it travels."""
        return self.packed.format if self.packed else Format.FLOAT32


@dataclass(frozen=True)
class PhoneStatus:
    """What a phone says of itself when the server asks; the server chooses phones by it.

    Attributes:
        number: identity in the fleet: the phone's random numbers derive from it.
        captures: how many it holds, by modality.
        free_memory: bytes; 0 if unknown.
        charging: whether it is connected to power.
        app_version: of the app around the bundle.
        layout: digest of its bundle's layout.
        edge: whether it is no phone but an edge server, whose captures are those of its phones.
        bundle: id of its bundle; "" if it did not say.
    """

    number: int
    captures: Mapping[Modality, int] = field(default_factory=dict)
    free_memory: int = 0
    charging: bool = False
    app_version: str = ""
    layout: str = ""
    edge: bool = False
    bundle: str = ""

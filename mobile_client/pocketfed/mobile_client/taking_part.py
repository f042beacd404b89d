"""A phone's round between instruction and update: what of its own it begins with, what it sends, what it remembers.

sent part ──blend──┐                       ┌── part that travels ──► update (weights, or a packed change)
                   ├──► whole ──► train ───┤
what stayed here ──┘                       └── part that stays, rounding errors, own weights ──► memory
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pocketfed.core.blend import BlendRule
from pocketfed.core.bundle import Bundle
from pocketfed.core.errors import ProgramError
from pocketfed.core.formats import Format, Packed, decode, encode
from pocketfed.core.layout import Layout, Role
from pocketfed.core.plan import PACKED, Instruction, Update
from pocketfed.core.randomness import generator
from pocketfed.mobile_client.blending import DISTANCE, OWN, RATE, blended, distance
from pocketfed.mobile_client.phone import Phone, train
from pocketfed.mobile_client.phone_memory import PhoneMemory, Vectors

STAYED, RESIDUAL = "stayed", "residual"
"""Names in the memory: the part that does not travel; what rounding has left out so far, of what is trained of the
part that does."""


@dataclass(frozen=True)
class Own:
    """What a phone has besides what a server sends.

    Attributes:
        layout: of its whole model.
        initial: gives the weights of its bundle, float32 [layout.size]; asked for in a phone's first round only.
        memory: from round to round.
    """

    layout: Layout
    initial: Callable[[], NDArray[np.float32]]
    memory: PhoneMemory

    @staticmethod
    def of(bundle: Bundle, memory: Path) -> "Own":
        """Of a phone that has installed a bundle, and a folder for its memory."""
        return Own(bundle.read_layout(), lambda: bundle.weights, PhoneMemory(memory))

    def check(self, instruction: Instruction) -> None:
        """See that an instruction is for this phone's network, before anything is done for it.

        Raises:
            ProgramError: it is not.
        """
        _ = _Asked(self.layout, instruction).weights


def take_part(
    phone: Phone, own: Own, instruction: Instruction, between: Callable[[], None] = lambda: None
) -> Update:
    """Do what the server asks.

    The same phone, instruction and memory of earlier rounds give the same update, bit for bit, on the same runtime.

    Args:
        phone: who trains.
        own: what it has of its own; its memory of this round is written.
        instruction: what the server asks for.
        between: see `train`.

    Raises:
        ProgramError: the weights are not for this program, training failed or led to numbers that are not finite, or
            the memory cannot be written.
        TooFewCaptures: see `train`.
    """
    asked = _Asked(own.layout, instruction)
    remembered = _recalled(own, asked) if asked.remembers else {}
    part, rate = blended(instruction.plan.blend, asked.layout, asked.weights, remembered)
    begun = _whole(own, asked, part, remembered)
    # The step may write into what it is given, and what was sent is needed again.
    whole = replace(instruction, weights=begun.copy(), layout=phone.spec.layout)
    update = train(phone, whole, between)
    trained = update.weights
    if asked.remembers:
        _check_finite(trained)
    after = own.layout.gather(trained, instruction.roles) if asked.stays else trained
    packed, residual = _pack(phone, asked, after, remembered)
    if asked.remembers:
        kept: dict[str, NDArray[np.float32]] = dict(residual)
        if asked.stays:
            kept[STAYED] = own.layout.gather(trained, asked.stays)
        if asked.blends:
            kept |= {OWN: after, DISTANCE: _one(distance(own.layout, begun, trained)), RATE: _one(rate)}
        _keep(own, asked, kept)
    return replace(update, weights=PACKED if packed else after, layout=instruction.layout, packed=packed)


@dataclass(frozen=True)
class _Asked:
    """An instruction, as this phone's layout reads it."""

    whole: Layout
    instruction: Instruction

    @cached_property
    def layout(self) -> Layout:
        """Of what travels."""
        part = self.whole.part(self.instruction.roles)
        if part.digest != self.instruction.layout:
            raise ProgramError(
                f"the server's weights (layout {self.instruction.layout[:12]!r}) are not those of this phone's bundle "
                f"(layout {part.digest[:12]!r}); install the server's bundle"
            )
        return part

    @cached_property
    def weights(self) -> NDArray[np.float32]:
        """What the server sent, float32 [layout.size]."""
        try:
            packed = self.instruction.packed
            sent = decode(packed, self.layout) if packed else self.instruction.weights
        except ValueError as error:
            raise ProgramError(f"the server's weights cannot be read: {error}") from error
        if sent.shape != (self.layout.size,):
            raise ProgramError(
                f"the server's weights are {sent.size}, those of this phone's bundle {self.layout.size}"
            )
        return sent

    @property
    def stays(self) -> tuple[Role, ...]:
        """Roles of what does not travel."""
        return tuple({piece.role for piece in self.whole.slices} - set(self.instruction.roles))

    @property
    def blends(self) -> bool:
        """Whether the phone's own weights count."""
        return self.instruction.plan.blend.rule is not BlendRule.NONE

    @property
    def remembers(self) -> bool:
        """Whether such rounds need a memory."""
        return bool(self.stays) or self.blends or self.instruction.wanted is Format.INT8

    @property
    def run(self) -> str:
        """Rounds that may share a memory: of one network, one division of it, and one run of a server."""
        return f"{self.whole.digest} {self.layout.digest} {self.instruction.plan.run}"


def _whole(own: Own, asked: _Asked, part: NDArray[np.float32], remembered: Vectors) -> NDArray[np.float32]:
    """The part that travels, and the phone's own for the rest; its bundle's, the first time."""
    layout, stays = own.layout, asked.stays
    if not stays:
        return part
    stayed = remembered[STAYED] if STAYED in remembered else layout.gather(own.initial(), stays)
    whole = layout.scatter(part, asked.instruction.roles, np.empty(layout.size, dtype=np.float32))
    return layout.scatter(stayed, stays, whole)


def _pack(
    phone: Phone, asked: _Asked, after: NDArray[np.float32], remembered: Vectors
) -> tuple[Packed | None, Vectors]:
    """The change to send, and what int8 leaves out of it, which the next change gets on top (error feedback)."""
    layout, trained, form = asked.layout, slice(asked.layout.trained), asked.instruction.wanted
    if form is Format.FLOAT32:
        return None, {}
    change = after.copy()  # buffers are sent as values
    with np.errstate(over="ignore", invalid="ignore"):
        change[trained] -= asked.weights[trained]
        if form is Format.INT8 and RESIDUAL in remembered:
            change[trained] += remembered[RESIDUAL]
    _check_finite(change)
    if form is Format.FLOAT16:
        return Packed(form, encode(change, layout, form)), {}
    plan = asked.instruction.plan
    uniform = generator(plan.seed, "rounding", phone.number, plan.round).random(layout.trained, np.float32)
    packed = Packed(form, encode(change, layout, form, uniform))
    return packed, {RESIDUAL: change[trained] - decode(packed, layout)[trained]}


def _check_finite(vector: NDArray[np.float32]) -> None:
    """What is not finite must neither be rounded nor remembered: it would be in every later round."""
    if not np.isfinite(vector).all():
        raise ProgramError("training led to weights that are not finite")


def _one(number: float) -> NDArray[np.float32]:
    return np.asarray([number], dtype=np.float32)


def _recalled(own: Own, asked: _Asked) -> Vectors:
    """Of the round before. What stays here no server can give back, so it is not lost if a server goes back further."""
    number = asked.instruction.plan.round
    found = own.memory.recall(asked.run, number)
    if found or not asked.stays:
        return found
    with _writing(own):
        return own.memory.go_back(asked.run, number, [STAYED])


def _keep(own: Own, asked: _Asked, kept: Vectors) -> None:
    with _writing(own):
        own.memory.keep(asked.run, asked.instruction.plan.round, kept)


@contextmanager
def _writing(own: Own) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ProgramError(
            f"the phone's memory {own.memory.folder} cannot be written ({error.strerror}); make room"
        ) from error

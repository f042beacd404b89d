"""What the agent's tasks mean on a phone that trains: the only place where wire and training meet."""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

from pocketfed.core.errors import Declined, MalformedObject, TooFewCaptures
from pocketfed.core.modality import Modality
from pocketfed.core.plan import Instruction, PhoneStatus
from pocketfed.core.program_spec import ProgramSpec
from pocketfed.core.wire import INSTRUCTION, STATUS, UPDATE, read_instruction, status_items, update_items
from pocketfed.mobile_client.flower.objects import Records
from pocketfed.mobile_client.flower.task import Task
from pocketfed.mobile_client.free_memory import free_memory
from pocketfed.mobile_client.looks import look_briefly
from pocketfed.mobile_client.phone import CaptureSource, Phone
from pocketfed.mobile_client.runtime import Runtime
from pocketfed.mobile_client.taking_part import Own, take_part

TRAIN, QUERY = "train", "query"
"""Flower's types of the messages that a phone answers; an action may follow after a dot."""

log = logging.getLogger(__name__)


CANNOT_SEE = "it cannot see or store all of them; its own log says why"
"""What a server is told of a store's problem, which names folders of the phone."""


class Store(Protocol):
    """The phone's captures."""

    @property
    def problem(self) -> str | None:
        """What kept the last scan from seeing or storing everything; None if nothing did."""
        ...

    def scan(self, between: Callable[[], None], /) -> None:
        """Look for new captures, and for ones that are gone.

        Args:
            between: called before each file is decoded; may wait, or raise to give up.
        """
        ...

    def snapshot(self) -> Mapping[Modality, CaptureSource]:
        """The captures as they are now; later scans do not change what is returned."""
        ...


class Gate(Protocol):
    """The phone's policy."""

    def refusal(self) -> str | None:
        """Why training is not allowed now; None if it is."""
        ...

    def pause(self, until: float) -> None:
        """Return when training is allowed.

        Args:
            until: when to give up waiting; seconds since 1970.

        Raises:
            Declined: it was not allowed by then.
        """
        ...


@dataclass(frozen=True)
class Work:
    """Answers a phone's tasks.

    Attributes:
        number: the phone's; its random numbers derive from it.
        spec: sizes of the program.
        runtime: runs the program.
        store: its captures.
        gate: its policy.
        app_version: of the app around it.
        charging: whether it is connected to power.
        own: what it has of its own besides captures.
        bundle: id of the bundle that all this is from.
    """

    number: int
    spec: ProgramSpec
    runtime: Runtime
    store: Store
    gate: Gate
    app_version: str = ""
    charging: Callable[[], bool] = lambda: False
    own: Own = field(kw_only=True)
    bundle: str = ""

    def __call__(self, task: Task) -> Records:
        """See `Handle`.

        Raises:
            Declined: the policy does not allow training.
            ProgramError: training failed, or the bundle is not the server's.
            MalformedObject: the task is not one that a phone knows.
        """
        kind = task.kind.partition(".")[0]
        if kind == QUERY:
            return {STATUS: status_items(self._status())}
        if kind == TRAIN:
            return self._train(_instruction(task.records), task.until)
        raise MalformedObject(f"a phone cannot {task.kind[:40]!r}, only {TRAIN!r} and {QUERY!r}")

    def refusal(self, kind: str) -> str | None:
        """Why a task of this kind would be declined now; None if it would not."""
        return self.gate.refusal() if kind.partition(".")[0] == TRAIN else None

    def _status(self) -> PhoneStatus:
        look_briefly(self.store.scan, self.gate.refusal)
        counts = {modality: len(captures) for modality, captures in self.store.snapshot().items()}
        return PhoneStatus(
            self.number,
            counts,
            free_memory(),
            self.charging(),
            self.app_version,
            self.spec.layout,
            bundle=self.bundle,
        )

    def _train(self, instruction: Instruction, until: float) -> Records:
        self.own.check(instruction)
        if (reason := self.gate.refusal()) is not None:
            raise Declined(reason)

        def between() -> None:
            self.gate.pause(until)
            if time.time() >= until:
                raise Declined("the time for this round is over")

        self.store.scan(between)
        phone = Phone(self.number, self.store.snapshot(), self.spec, self.runtime)
        try:
            update = take_part(phone, self.own, instruction, between)
        except TooFewCaptures as error:
            if self.store.problem is None:
                raise
            raise TooFewCaptures(f"{error}: {CANNOT_SEE}") from error
        losses = ", ".join(f"{modality} {loss:.3f}" for modality, loss in update.loss.items())
        log.info("round %d: learnt from %d captures, loss %s", update.round, update.examples, losses)
        return {UPDATE: update_items(replace(update, bundle=self.bundle))}


def _instruction(records: Records) -> Instruction:
    try:
        instruction = read_instruction(records[INSTRUCTION])
    except (KeyError, TypeError, ValueError) as error:
        raise MalformedObject(f"the instruction cannot be read ({type(error).__name__}: {error})") from error
    # They share the record's memory, which nobody may write to; PyTorch warns of handing it such arrays.
    return replace(instruction, weights=instruction.weights.copy())

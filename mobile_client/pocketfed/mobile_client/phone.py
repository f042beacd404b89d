"""One phone: its captures, its runtime, and a round of training as the server's plan asks for it."""

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pocketfed.core.errors import ProgramError, TooFewCaptures
from pocketfed.core.modality import Modality
from pocketfed.core.plan import Instruction, Plan, Update
from pocketfed.core.program_spec import ProgramSpec
from pocketfed.core.randomness import generator
from pocketfed.mobile_client.batches import Batch, Work, mixed, sequential
from pocketfed.mobile_client.runtime import Array, Runtime


class CaptureSource(Protocol):
    """Captures of one modality; an array is one."""

    def __len__(self) -> int:
        """How many there are."""
        ...

    def __getitem__(self, indices: NDArray[np.int64], /) -> NDArray[Any]:
        """The captures at these positions, [len(indices), *shape]."""
        ...


@dataclass(frozen=True)
class Phone:
    """A phone that can train.

    Attributes:
        number: its identity in the fleet; its random numbers derive from it.
        captures: raw captures by modality; modalities that it lacks are absent.
        spec: sizes of the program.
        runtime: runs the program.
    """

    number: int
    captures: Mapping[Modality, CaptureSource]
    spec: ProgramSpec
    runtime: Runtime


def train(phone: Phone, instruction: Instruction, between: Callable[[], None] = lambda: None) -> Update:
    """Train on the phone's own captures, from the server's weights.

    The same phone and instruction give the same update, bit for bit, on the same runtime.

    Args:
        phone: who trains.
        instruction: what the server asks for.
        between: called before each step; may wait, or raise to give the round up.

    Raises:
        ProgramError: the weights are not for this program, or the program failed.
        TooFewCaptures: there are not even two of a modality that is asked for.
    """
    plan, weights = instruction.plan, instruction.weights
    if instruction.layout != phone.spec.layout or weights.shape != (phone.spec.weights,):
        raise ProgramError(
            f"the server's weights ({weights.size}, layout {instruction.layout[:12]!r}) are not those of this "
            f"phone's bundle ({phone.spec.weights}, layout {phone.spec.layout[:12]!r})"
        )
    rng = generator(plan.seed, "phone", phone.number, plan.round)
    theta, anchor = weights, weights.copy()
    state = np.zeros(phone.spec.state, dtype=np.float32)
    losses: dict[Modality, list[tuple[float, int]]] = defaultdict(list)
    for batch in _schedule(phone, plan, rng):
        between()
        method, _ = phone.spec.step(batch.modalities)
        loss, theta, state = phone.runtime.run(
            method, [theta, state, anchor, *_inputs(phone, batch, rng), _hyper(plan, batch)]
        )
        for modality, index in batch.indices.items():
            losses[modality].append((float(loss), len(index)))
    if not losses:
        raise TooFewCaptures(f"phone {phone.number} has too few captures to train on")
    seen = {modality: sum(count for _, count in steps) for modality, steps in losses.items()}
    means = {m: sum(loss * count for loss, count in steps) / seen[m] for m, steps in losses.items()}
    return Update(theta, sum(seen.values()), seen, means, plan.round, instruction.layout)


def _schedule(phone: Phone, plan: Plan, rng: np.random.Generator) -> list[Batch]:
    order = mixed if plan.mixed else sequential
    held = phone.captures
    work = {m: Work(len(held[m]), plan.epochs[m]) for m in phone.spec.inputs if m in held}
    return order(work, phone.spec.batch, rng)


def _inputs(phone: Phone, batch: Batch, rng: np.random.Generator) -> list[Array]:
    """Captures and uniform numbers of each modality of the batch, filled up to the program's size.

    What fills it up counts for nothing in the loss; it is the batch's own captures again, so that a network with
    batch statistics sees captures only.
    """
    _, size = phone.spec.step(batch.modalities)
    arrays: list[Array] = []
    for modality, index in batch.indices.items():
        spec = phone.spec.inputs[modality]
        captures = np.asarray(phone.captures[modality][np.resize(index, size)], dtype=spec.dtype)
        arrays += [captures, rng.random((size, 2, spec.noise), dtype=np.float32)]
    return arrays


def _hyper(plan: Plan, batch: Batch) -> NDArray[np.float32]:
    return plan.hyper.vector([len(index) for index in batch.indices.values()])

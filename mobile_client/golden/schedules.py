"""Rounds of training: from captures, shuffles and an instruction to what each step is given, and what the update says."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pocketfed.core.hyper import HYPER, Hyper
from pocketfed.core.modality import Modality
from pocketfed.core.plan import Instruction, Plan
from pocketfed.core.program_spec import Input, ProgramSpec
from pocketfed.core.randomness import generator
from pocketfed.mobile_client.batches import Work, mixed, sequential
from pocketfed.mobile_client.phone import Phone, train
from pocketfed.mobile_client.runtime import Array

NUMBER, SEED, ROUND, BATCH = 7, 5, 3, 16
NOISE = {Modality.PHOTO: 3, Modality.SOUND: 2}


def schedules() -> list[dict[str, Any]]:
    """Each rule of the schedule in a case of its own."""
    photo, sound = Modality.PHOTO, Modality.SOUND
    return [
        _case("one full batch", {photo: 16}),
        _case("all that there is, filled up", {photo: 5}),
        _case("a last batch of eight", {photo: 24}),
        _case("a last batch of seven is left out", {photo: 23}),
        _case("each pass is shuffled anew", {photo: 20}, {photo: 2}),
        _case("photos and sounds take turns", {photo: 48, sound: 20}, {photo: 1, sound: 2}),
        _case("photos come first where there is a tie", {photo: 16, sound: 16}),
        _case("a single sound is no batch", {photo: 16, sound: 1}),
        _case("mixed", {photo: 24, sound: 16}, together=True),
        _case("mixed, with few sounds, none of them twice in a batch", {photo: 40, sound: 5}, together=True),
        _case("mixed, with less than a batch in all", {photo: 3, sound: 2}, together=True),
        _case("mixed, with one kind only", {sound: 20}, together=True),
    ]


class _Recording(np.random.Generator):
    """Notes the shuffles that are drawn."""

    def __init__(self, rng: np.random.Generator) -> None:
        super().__init__(rng.bit_generator)
        self.shuffles: list[list[int]] = []

    def permutation(self, *arguments: Any) -> Any:
        drawn = super().permutation(*arguments)
        self.shuffles.append(drawn.tolist())
        return drawn


class _Recorder:
    """A runtime that notes what steps are given; the loss of the first is 1, of the next 2, and so on."""

    def __init__(self, modalities: Sequence[Modality]) -> None:
        self.steps: list[dict[str, Any]] = []
        self._modalities = modalities

    def run(self, method: str, inputs: Sequence[Array]) -> tuple[Array, ...]:
        theta, state, _, *batches, hyper = inputs
        kinds = self._modalities if method == "step_mixed" else [Modality(method.removeprefix("step_"))]
        captures = {str(kind): batches[2 * i].ravel().astype(int).tolist() for i, kind in enumerate(kinds)}
        shapes = {str(kind): list(batches[2 * i + 1].shape) for i, kind in enumerate(kinds)}
        loss = float(len(self.steps) + 1)
        step = {"method": method, "captures": captures, "noise_shape": shapes, "hyper": hyper.tolist()}
        self.steps.append({**step, "loss": loss})
        return np.asarray(loss, dtype=np.float32), theta, state


def _case(
    name: str,
    counts: Mapping[Modality, int],
    epochs: Mapping[Modality, int] | None = None,
    together: bool = False,
) -> dict[str, Any]:
    """The captures are their own indices, so that a step's captures show which they are."""
    captures: dict[Modality, NDArray[Any]] = {
        kind: np.arange(count, dtype=np.float32)[:, None] for kind, count in counts.items()
    }
    epochs = epochs or dict.fromkeys(counts, 1)
    inputs = {kind: Input((1,), "float32", NOISE[kind]) for kind in Modality}
    spec = ProgramSpec(2, 2, BATCH, inputs, mixed=True, layout="5f" * 32)
    plan, runtime = Plan(ROUND, SEED, epochs, together, Hyper()), _Recorder(list(inputs))
    phone = Phone(NUMBER, captures, spec, runtime)
    rng = _Recording(generator(SEED, "phone", NUMBER, ROUND))
    order = mixed if together else sequential
    order({kind: Work(count, epochs[kind]) for kind, count in counts.items()}, BATCH, rng)
    update = train(phone, Instruction(plan, np.zeros(2, dtype=np.float32), spec.layout))
    return {
        "name": name,
        "batch": BATCH,
        "captures": dict(counts),
        "instruction": {
            "mixed": int(together),
            **{f"epochs-{kind}": count for kind, count in epochs.items()},
            **{field: getattr(plan.hyper, field) for field in HYPER},
        },
        "shuffles": rng.shuffles,
        "steps": runtime.steps,
        "update": {
            "examples": update.examples,
            **{f"seen-{kind}": count for kind, count in update.seen.items()},
            **{f"loss-{kind}": loss for kind, loss in update.loss.items()},
        },
    }

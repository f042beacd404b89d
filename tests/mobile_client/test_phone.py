"""A phone's round: what it computes, and that it depends on nothing but its arguments."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pocketfed.core.errors import Declined, ProgramError, TooFewCaptures
from pocketfed.core.hyper import Hyper
from pocketfed.core.learning_step import methods
from pocketfed.core.learning_task import LearningTask, initial_weights
from pocketfed.core.modality import Modality
from pocketfed.core.plan import Instruction, Plan
from pocketfed.core.program_spec import program_spec
from pocketfed.mobile_client.phone import Phone, train
from pocketfed.mobile_client.runtime import Array, ExecutorchRuntime, TorchRuntime


def phone_with(task: LearningTask, photos: int, sounds: int, number: int = 0) -> Phone:
    rng = np.random.default_rng(number)
    captures: dict[Modality, NDArray[Any]] = {
        Modality.PHOTO: rng.integers(0, 256, (photos, 16, 16, 3), dtype=np.uint8),
        Modality.SOUND: (0.1 * rng.standard_normal((sounds, 4000))).astype(np.float32),
    }
    held = {modality: items for modality, items in captures.items() if len(items)}
    return Phone(number, held, program_spec(task, mixed=True), TorchRuntime(methods(task, mixed=True)))


def plan(round_number: int = 1, mixed: bool = False, epochs: int = 1) -> Plan:
    return Plan(round_number, seed=5, epochs=dict.fromkeys(Modality, epochs), mixed=mixed, hyper=Hyper())


def instruction(
    task: LearningTask, round_number: int = 1, mixed: bool = False, epochs: int = 1
) -> Instruction:
    return Instruction(plan(round_number, mixed, epochs), initial_weights(task, 0), task.layout.digest)


@pytest.mark.parametrize("mixed", [False, True])
def test_the_same_work_gives_the_same_weights_and_other_work_does_not(
    small_task: LearningTask, mixed: bool
) -> None:
    phone = phone_with(small_task, 12, 12)
    asked = instruction(small_task, mixed=mixed)
    first, second = (train(phone, asked) for _ in range(2))
    assert np.array_equal(first.weights, second.weights)
    assert first.loss == second.loss
    assert not np.array_equal(first.weights, train(phone, instruction(small_task, 2, mixed)).weights)
    assert not np.array_equal(asked.weights, first.weights)


def test_examples_and_losses_are_counted(small_task: LearningTask) -> None:
    update = train(phone_with(small_task, 12, 6), instruction(small_task, epochs=2))
    assert (update.examples, update.seen) == (36, {Modality.PHOTO: 24, Modality.SOUND: 12})
    assert set(update.loss) == set(Modality)
    assert all(0 < loss < 5 for loss in update.loss.values())


def test_the_servers_weights_are_left_alone(small_task: LearningTask) -> None:
    asked = instruction(small_task)
    before = asked.weights.copy()
    train(phone_with(small_task, 12, 0), asked)
    assert np.array_equal(asked.weights, before)


def test_the_update_says_what_it_answers(small_task: LearningTask) -> None:
    update = train(phone_with(small_task, 12, 0), instruction(small_task, 3))
    assert (update.round, update.layout) == (3, small_task.layout.digest)


@pytest.mark.parametrize("wrong", ["layout", "size"])
def test_weights_of_another_program_are_refused(small_task: LearningTask, wrong: str) -> None:
    right = instruction(small_task)
    other = (
        replace(right, layout="0" * 64) if wrong == "layout" else replace(right, weights=right.weights[1:])
    )
    with pytest.raises(ProgramError, match="are not those of this phone's bundle"):
        train(phone_with(small_task, 12, 0), other)


def test_between_is_called_before_each_step_and_may_end_the_round(small_task: LearningTask) -> None:
    events: list[str] = []

    class Loud(Recorder):
        def run(self, method: str, inputs: Sequence[Array]) -> tuple[Array, ...]:
            events.append("step")
            return super().run(method, inputs)

    def between() -> None:
        events.append("between")
        if len(events) == 5:
            raise Declined("enough")

    phone = replace(phone_with(small_task, 12, 12), runtime=Loud())
    with pytest.raises(Declined):
        train(phone, instruction(small_task), between)
    assert events == ["between", "step", "between", "step", "between"]


def test_a_batch_that_is_not_full_is_padded_and_not_counted(small_task: LearningTask) -> None:
    update = train(phone_with(small_task, 4, 0), instruction(small_task))
    assert update.examples == 4
    assert update.loss[Modality.PHOTO] < np.log(2 * 4 - 1) + 0.7


def test_a_phone_without_enough_captures_says_so(small_task: LearningTask) -> None:
    with pytest.raises(TooFewCaptures, match="too few captures"):
        train(phone_with(small_task, 1, 0), instruction(small_task))


def test_runtimes_name_what_is_wrong(small_task: LearningTask) -> None:
    with pytest.raises(ProgramError, match="no method 'step_touch'"):
        TorchRuntime(methods(small_task)).run("step_touch", [])
    with pytest.raises(ProgramError, match="cannot be loaded"):
        ExecutorchRuntime(b"not a program")


class Recorder:
    """A runtime that keeps what it is given and leaves the weights alone."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, list[bytes]]] = []

    def run(self, method: str, inputs: Sequence[Array]) -> tuple[Array, ...]:
        self.calls.append((method, [array.tobytes() for array in inputs]))
        return np.asarray(1.0, dtype=np.float32), inputs[0], inputs[1]


def test_in_sequential_mode_no_input_of_a_sound_step_depends_on_the_photos(small_task: LearningTask) -> None:
    """With weights that stay put, other photos leave all that sound steps are given bit-identical."""
    spec, seen = program_spec(small_task, mixed=True), []
    for shade in (0, 255):
        phone = phone_with(small_task, 12, 12)
        captures = {**phone.captures, Modality.PHOTO: np.full((12, 16, 16, 3), shade, dtype=np.uint8)}
        recorder = Recorder()
        train(Phone(0, captures, spec, recorder), instruction(small_task))
        seen.append(recorder.calls)
    dark, bright = ([inputs for name, inputs in calls if name == "step_sound"] for calls in seen)
    assert len(dark) == 2
    assert dark == bright
    assert seen[0] != seen[1]

"""The number of threads: chosen by measurement, without a say in the results."""

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from pocketfed.core.learning_step import Method
from pocketfed.core.learning_task import LearningTask
from pocketfed.core.modality import Modality
from pocketfed.core.program_spec import ProgramSpec, program_spec
from pocketfed.export.program import task_program
from pocketfed.mobile_client.runtime import ExecutorchRuntime
from pocketfed.mobile_client.threads import fastest_threads
from tests.conftest import random_inputs


def test_results_do_not_depend_on_it(small_task: LearningTask, photo_step: Method) -> None:
    inputs = [tensor.numpy() for tensor in random_inputs(photo_step, small_task, seed=0)]
    runtime = ExecutorchRuntime(task_program(small_task, mixed=True))
    one = runtime.run("step_photo", inputs)
    runtime.use_threads(2)
    two = runtime.run("step_photo", inputs)
    runtime.use_threads(1)
    assert all(np.array_equal(a, b) for a, b in zip(one, two, strict=True))


def test_the_winner_is_the_one_whose_slowest_step_is_fastest(
    small_task: LearningTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two threads are better for photos and worse for sounds; a clock that the runtime moves stands for time."""
    spec = program_spec(small_task, mixed=False)
    for costs, winner in (
        ({1: {"photo": 3, "sound": 4}, 2: {"photo": 2, "sound": 5}}, 1),
        ({1: {"photo": 3, "sound": 4}, 2: {"photo": 2, "sound": 3}}, 2),
        ({1: {"photo": 3, "sound": 4}, 2: {"photo": 4, "sound": 3}}, 1),
    ):
        runtime = Clocked(spec, costs)
        monkeypatch.setattr("time.perf_counter", lambda runtime=runtime: runtime.now)
        assert fastest_threads(runtime, spec, [2, 1]) == winner  # type: ignore[arg-type]
        assert runtime.threads == winner


class Clocked:
    """A runtime whose calls take as long as they are told to."""

    def __init__(self, spec: ProgramSpec, costs: dict[int, dict[str, int]]) -> None:
        self.spec, self.costs, self.now, self.threads = spec, costs, 0.0, 0

    def use_threads(self, count: int) -> None:
        self.threads = count

    def run(self, method: str, inputs: list[NDArray[Any]]) -> tuple[torch.Tensor, ...]:
        modality = Modality(method.removeprefix("step_"))
        assert inputs[3].shape[1:] == self.spec.inputs[modality].shape
        self.now += self.costs[self.threads][modality]
        return ()

"""The verdict on a program: eager itself agrees, a wrong step does not, and kinks are no excuse for more than kinks do."""

from collections.abc import Sequence

import numpy as np
import pytest

from pocketfed.core.learning_step import Method
from pocketfed.core.learning_task import LearningTask
from pocketfed.mobile_client.runtime import Array, TorchRuntime
from pocketfed.simulator.bench.agreement import Agreement, Verdict, agree
from tests.conftest import random_inputs


class Slower:
    """A runtime that moves the weights by a little less than it should."""

    def __init__(self, method: Method) -> None:
        self.exact = TorchRuntime([method])

    def run(self, method: str, inputs: Sequence[Array]) -> tuple[Array, ...]:
        loss, theta, state = self.exact.run(method, inputs)
        return loss, inputs[0] + np.float32(0.999) * (theta - inputs[0]), state


def test_eager_agrees_with_itself_and_a_step_that_is_off_by_a_thousandth_does_not(
    photo_step: Method, small_task: LearningTask
) -> None:
    inputs = [part.numpy() for part in random_inputs(photo_step, small_task, seed=0)]
    inputs[1] *= 0
    eager, trained = TorchRuntime([photo_step]), small_task.layout.trained
    exact = agree(eager, eager, photo_step.name, inputs, trained, 3)
    assert exact.holds
    assert exact.program == Agreement(0.0, 0.0, 0.0)
    assert 0 < exact.nudged.weights < exact.nudged.change < 1e-4
    off = agree(Slower(photo_step), eager, photo_step.name, inputs, trained, 3)
    assert not off.holds
    assert off.program.change == pytest.approx(1e-3, rel=0.3)


@pytest.mark.parametrize(
    ("ours", "nudged", "holds"),
    [(5e-5, 1e-9, True), (2e-4, 1e-9, False), (2e-2, 3e-3, True), (4e-2, 3e-3, False)],
)
def test_kinks_are_measured_by_eager_itself(ours: float, nudged: float, holds: bool) -> None:
    verdict = Verdict(Agreement(0.0, 0.0, ours), Agreement(0.0, 0.0, nudged))
    assert verdict.holds is holds

"""What counts as agreement between a program and eager PyTorch."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from pocketfed.core.learning_step import Method
from pocketfed.core.learning_task import LearningTask, initial_weights
from pocketfed.core.modality import Modality
from pocketfed.simulator.parity import BOUNDS, MARGIN, Parity, chaos_of, compare_step, real_inputs

WEIGHTS = torch.tensor([1.0] * 8 + [1.5, 2.0])
TIMES = torch.tensor(3.0)


def smooth(weights: Tensor, times: Tensor) -> tuple[Tensor, ...]:
    return weights * times, weights.square().sum()


def kinked(weights: Tensor, times: Tensor) -> tuple[Tensor, ...]:
    """Steps at 1, where some weights lie."""
    return (torch.where((weights < 1).any(), -times, times),)


def test_roundings_move_a_smooth_result_by_roundings() -> None:
    method = Method("smooth", smooth, (WEIGHTS, TIMES))
    moved = chaos_of(method, [WEIGHTS, TIMES], smooth(WEIGHTS, TIMES))
    assert len(moved) == 2
    assert 0 < max(moved) < 1e-5
    assert Parity("train.pte", "loss", "float32", 2e-4, max(moved)).bound == BOUNDS["float32"]


def test_at_a_kink_a_result_moves_far_whichever_side_it_is_on() -> None:
    method = Method("kinked", kinked, (WEIGHTS, TIMES))
    (moved,) = chaos_of(method, [WEIGHTS, TIMES], kinked(WEIGHTS, TIMES))
    assert moved == 2.0


@pytest.mark.parametrize(
    ("error", "chaos", "agrees"),
    [(9e-5, 0.0, True), (2e-4, 0.0, False), (2e-4, 5e-5, False), (2e-3, 1e-3, True), (4e-3, 1e-3, False)],
)
def test_a_step_may_part_three_times_as_far_as_rounding_would_take_it(
    error: float, chaos: float, agrees: bool
) -> None:
    found = Parity("train.pte", "step_photo, state", "float32", error, chaos)
    assert found.agrees is agrees
    assert found.bound == max(BOUNDS["float32"], MARGIN * chaos)


def full(hyper: Tensor) -> Tensor:
    """The same, but every place of a batch of 6 counts."""
    return torch.cat([hyper[:-1], torch.tensor([6.0])])


MISTAKES: dict[str, Callable[..., tuple[Tensor, ...]]] = {
    "none": lambda theta, state, anchor, *rest: (theta, state, anchor, *rest),
    "ignores the state": lambda theta, state, *rest: (theta, 0 * state, *rest),
    "pushes away from the round's weights": lambda theta, state, anchor, *rest: (
        theta, state, 2 * theta - anchor, *rest
    ),
    "counts what is no capture": lambda *inputs: (*inputs[:-1], full(inputs[-1])),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_step_that_heeds_not_all_of_its_inputs_disagrees(
    mistake: str, small_task: LearningTask, photo_step: Method
) -> None:
    photos = np.random.default_rng(0).integers(0, 256, (8, 16, 16, 3), dtype=np.uint8)
    inputs = real_inputs(initial_weights(small_task, 0), photo_step, {Modality.PHOTO: photos})
    results = photo_step.function(*MISTAKES[mistake](*inputs))
    found = dict(zip(("loss", "weights", "state"), results, strict=True))
    rows = compare_step("train.pte", photo_step, inputs, found)
    assert all(row.agrees for row in rows) is (mistake == "none")


def test_every_result_at_a_kink_may_part_as_far_as_rounding_takes_it() -> None:
    method = Method("kinked", kinked, (WEIGHTS, TIMES))
    (row,) = compare_step("TrainPhoto.mlpackage", method, [WEIGHTS, TIMES], {"gradient": -TIMES})
    assert (row.error, row.chaos, row.agrees) == (2.0, 2.0, True)

"""What counts as agreement between a program and eager PyTorch."""

import math

import pytest
import torch

from pocketfed.simulator.parity import BOUNDS, MARGIN, MOST_CHAOS, Parity, distance


@pytest.mark.parametrize(
    ("error", "chaos", "agrees"),
    [(9e-5, 0.0, True), (2e-4, 0.0, False), (2e-4, 1e-5, False), (9e-3, 1e-3, True), (2e-2, 1e-3, False)],
)
def test_a_gradient_may_part_ten_times_as_far_as_rounding_would_take_it(
    error: float, chaos: float, agrees: bool
) -> None:
    found = Parity("train.pte", "step_photo, gradient", "float32", error, chaos)
    assert found.agrees is agrees
    assert found.bound == max(BOUNDS["float32"], MARGIN * chaos)


def test_noise_excuses_no_part_of_a_gradient_that_is_lost() -> None:
    assert Parity("train.pte", "step_photo, gradient", "float32", 0.99 * MOST_CHAOS, chaos=2.0).agrees
    assert not Parity("train.pte", "step_photo, gradient", "float32", 1.01 * MOST_CHAOS, chaos=2.0).agrees
    assert MOST_CHAOS < 0.5, "half a gradient is as wrong as none"


def test_a_result_that_is_no_number_is_infinitely_far() -> None:
    nothing = torch.full((2,), float("nan"))
    assert distance(nothing, torch.ones(2)) == distance(torch.ones(2), nothing) == math.inf


def test_what_is_smaller_than_the_least_is_judged_by_that() -> None:
    assert distance(torch.tensor([2e-3]), torch.tensor([1e-3]), least=0.1) == pytest.approx(0.01)

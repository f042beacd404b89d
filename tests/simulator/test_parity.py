"""What counts as agreement between a program and eager PyTorch."""

import pytest
import torch
from torch import Tensor

from pocketfed.core.learning_step import Method
from pocketfed.simulator.parity import BOUNDS, MARGIN, Parity, chaos_of

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

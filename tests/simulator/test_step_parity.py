"""What tells a step of a program from another: every term of it, every slice of its gradient."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from pocketfed.core.hyper import HYPER, Hyper
from pocketfed.core.layout import Slice
from pocketfed.core.learning_step import Method, gradient_method, step_method, updated
from pocketfed.core.learning_task import LearningTask, initial_weights, learning_task
from pocketfed.core.modality import Modality
from pocketfed.core.optimisers import OPTIMISERS
from pocketfed.core.role import Role
from pocketfed.core.views import PhotoView
from pocketfed.simulator.parity import Parity
from pocketfed.simulator.step_parity import (
    BARE,
    TELLING,
    compare_gradient,
    compare_step,
    drawn_batch,
    elsewhere,
    telling,
)
from tests.small_network import small_network_task

Arguments = Sequence[Tensor]
Results = Sequence[Tensor]
BOTH = [Modality.PHOTO, Modality.SOUND]


@pytest.fixture(scope="module", params=OPTIMISERS)
def task(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LearningTask:
    return small_network_task(tmp_path_factory.mktemp("plugin"), 8, OPTIMISERS[request.param])


@pytest.fixture(scope="module")
def statistical() -> LearningTask:
    """Of a network with running statistics."""
    return learning_task("resnet", {Modality.PHOTO: PhotoView(side=16)}, batch=8)


def captures() -> dict[Modality, NDArray[Any]]:
    rng = np.random.default_rng(0)
    return {
        Modality.PHOTO: rng.integers(0, 256, (8, 16, 16, 3), dtype=np.uint8),
        Modality.SOUND: rng.uniform(-1, 1, (8, 4000)).astype(np.float32),
    }


def rows_of(
    task: LearningTask, method: Method, run: Callable[[Arguments], Results] | None = None
) -> list[Parity]:
    run = run or (lambda arguments: method.function(*arguments))
    return list(compare_step("train.pte", task, method, run, initial_weights(task, 0), captures()))


def wrong(rows: Sequence[Parity]) -> list[str]:
    """What disagrees, without the method's name."""
    return [row.what.partition(", ")[2] for row in rows if not row.agrees]


def test_eager_pytorch_agrees_with_itself(task: LearningTask) -> None:
    rows = rows_of(task, step_method(task, BOTH))
    assert [row.what for row in rows] == ["step_mixed, loss", "step_mixed, gradient", "step_mixed, update"]
    assert max(row.error for row in rows) < 1e-6


@pytest.mark.parametrize("name", HYPER)
def test_a_number_that_a_program_has_inside_is_found(name: str, task: LearningTask) -> None:
    """As by default, whatever it is told."""
    method, at = step_method(task, [Modality.PHOTO]), HYPER.index(name)

    def run(arguments: Arguments) -> Results:
        hyper = arguments[-1].clone()
        hyper[at] = float(Hyper().vector([])[at])
        return method.function(*arguments[:-1], hyper)

    heeded = name not in ("second_momentum", "epsilon") or task.optimiser.name == "adamw"
    assert bool(wrong(rows_of(task, method, run))) is heeded


def without_proximal(theta: Tensor, state: Tensor, anchor: Tensor, *rest: Tensor) -> Arguments:
    return (theta, state, theta, *rest)


def away_from_the_round(theta: Tensor, state: Tensor, anchor: Tensor, *rest: Tensor) -> Arguments:
    return (theta, state, 2 * theta - anchor, *rest)


def without_state(theta: Tensor, state: Tensor, *rest: Tensor) -> Arguments:
    return (theta, 0 * state, *rest)


def every_capture(*arguments: Tensor) -> Arguments:
    hyper = arguments[-1].clone()
    hyper[len(HYPER) :] = 4
    return (*arguments[:-1], hyper)


def exchanged_counts(*arguments: Tensor) -> Arguments:
    return (*arguments[:-1], torch.cat([arguments[-1][: len(HYPER)], arguments[-1][len(HYPER) :].flip(0)]))


def one_view_twice(*arguments: Tensor) -> Arguments:
    noise = arguments[4].clone()
    noise[:, 1] = noise[:, 0]
    return (*arguments[:4], noise, *arguments[5:])


@pytest.mark.parametrize(
    ("mistake", "where"),
    [
        (without_proximal, "update"),
        (away_from_the_round, "update"),
        (without_state, "update"),
        (every_capture, "gradient"),
        (exchanged_counts, "gradient"),
        (one_view_twice, "gradient"),
    ],
)
def test_what_a_program_makes_wrong_of_its_inputs_is_found(
    mistake: Callable[..., Arguments], where: str, task: LearningTask
) -> None:
    method = step_method(task, BOTH)
    assert where in wrong(rows_of(task, method, lambda arguments: method.function(*mistake(*arguments))))


def losing(task: LearningTask, method: Method, piece: Slice) -> Callable[[Arguments], Results]:
    """The step, as if the gradient of one slice were lost before the optimiser sees it."""
    own = slice(piece.offset, piece.offset + piece.size)

    def run(arguments: Arguments) -> Results:
        theta, state, anchor, *_, hyper = arguments
        rates = dict(zip(HYPER, hyper, strict=False))
        quiet = torch.from_numpy(BARE.vector(hyper[len(HYPER) :].tolist()))
        loss, after, bare = method.function(theta, 0 * state, anchor, *arguments[3:-1], quiet)
        gradient = bare[: task.layout.trained].clone()
        gradient[own] = 0
        moved, whole = updated(task, theta, gradient, state, anchor, rates)
        return loss, torch.cat([moved, after[task.layout.trained :]]), whole

    return run


def test_every_slice_that_learns_nothing_is_found_by_its_name(task: LearningTask) -> None:
    """But for the bias behind which a norm takes the mean off: no gradient is all that it ever gets."""
    method = step_method(task, [Modality.SOUND])
    whole = gradient_of(task, Modality.SOUND).abs()
    learning = [piece for piece in task.layout.slices if piece.name != "backbone.3.bias"]
    assert len(learning) == len(task.layout.slices) - 1
    for piece in learning:
        rows = rows_of(task, method, losing(task, method, piece))
        (gradient,) = (row for row in rows if not row.agrees)
        assert (gradient.what, gradient.place) == ("step_sound, gradient", f"gradient of {piece.name}")
        lost = float(whole[piece.offset :][: piece.size].max() / whole.max())
        assert gradient.error == pytest.approx(lost / max(lost, 0.1), rel=1e-4)


def test_a_slice_far_smaller_than_others_is_found_too(statistical: LearningTask) -> None:
    method = step_method(statistical, [Modality.PHOTO])
    rows = rows_of(statistical, method, losing(statistical, method, smallest_slice(statistical)))
    assert wrong(rows) == ["gradient"]


@pytest.mark.parametrize(("share", "agrees"), [(5e-6, True), (2e-5, False)])
def test_a_small_slice_may_be_off_by_what_rounding_leaves_of_large_terms(
    share: float, agrees: bool, statistical: LearningTask
) -> None:
    """Small may be what is left of terms as large as anything in the gradient."""
    method = gradient_method(statistical, Modality.PHOTO)
    piece = smallest_slice(statistical)

    def run(arguments: Arguments) -> Results:
        loss, gradient, statistics = method.function(*arguments)
        off = gradient.clone()
        off[piece.offset] += share * float(gradient.abs().max())
        return loss, off, statistics

    rows = list(compare_gradient("T", statistical, method, run, initial_weights(statistical, 0), captures()))
    assert bool(wrong(rows)) is not agrees


def smallest_slice(task: LearningTask) -> Slice:
    """Whose gradient has the smallest of all magnitudes."""
    return min(
        (piece for piece in task.layout.slices if piece.role is not Role.BUFFER),
        key=lambda piece: float(gradient_of(task)[piece.offset :][: piece.size].abs().max()),
    )


def gradient_of(task: LearningTask, modality: Modality = Modality.PHOTO) -> Tensor:
    method = gradient_method(task, modality)
    arguments = (
        elsewhere(task, initial_weights(task, 0)), *drawn_batch(method, captures()), telling(method, BARE)
    )  # fmt: skip
    return method.function(*arguments)[1]


def test_an_app_gets_loss_gradient_and_statistics(statistical: LearningTask) -> None:
    method = gradient_method(statistical, Modality.PHOTO)

    def rows(change: Callable[[Results], Results]) -> list[Parity]:
        run = lambda arguments: change(method.function(*arguments))
        every = compare_gradient("T", statistical, method, run, initial_weights(statistical, 0), captures())
        return list(every)

    assert not wrong(rows(lambda results: results))
    assert wrong(rows(lambda results: (results[0] * 1.01, *results[1:]))) == ["loss"]
    assert wrong(rows(lambda results: (results[0], -results[1], results[2]))) == ["gradient"]
    assert wrong(rows(lambda results: (*results[:2], 0 * results[2]))) == ["statistics"]
    assert wrong(rows(lambda results: (results[0], results[1] * float("nan"), results[2]))) == ["gradient"]
    with pytest.raises(ValueError, match="it gives 2 results in place of 3"):
        rows(lambda results: results[:2])
    with pytest.raises(ValueError, match=r"it gives \[\d+\] in place of"):
        rows(lambda results: (*results[:2], torch.cat([results[2], results[2]])))


def test_weights_are_elsewhere_than_where_biases_are_zero_and_scales_one(statistical: LearningTask) -> None:
    begun = initial_weights(statistical, 0)
    theta = elsewhere(statistical, begun).numpy()
    assert (theta != begun).all()
    variances = [part for part in statistical.layout.slices if part.name.endswith("running_var")]
    assert variances
    assert all((theta[part.offset : part.offset + part.size] > 0).all() for part in variances)


def test_no_number_is_a_default() -> None:
    assert not set(TELLING.vector([])) & set(Hyper().vector([]))


@pytest.mark.parametrize(("factor", "agrees"), [(0.8, True), (0.7, False)])
def test_what_rounding_may_turn_over_excuses_a_quarter(
    factor: float, agrees: bool, statistical: LearningTask
) -> None:
    begun, trained = initial_weights(statistical, 0), statistical.layout.trained
    kink = elsewhere(statistical, begun)

    def kinked(theta: Tensor, captures: Tensor, noise: Tensor, hyper: Tensor) -> tuple[Tensor, ...]:
        """A gradient whose sign hangs on whether no weight is below where it is."""
        sign = torch.where((theta < kink).any(), -1.0, 1.0)
        return hyper[:1], sign * theta[:trained], theta[trained:]

    method = replace(gradient_method(statistical, Modality.PHOTO), function=kinked)

    def run(arguments: Arguments) -> Results:
        loss, gradient, statistics = kinked(*arguments)
        return loss, factor * gradient, statistics

    rows = list(compare_gradient("T", statistical, method, run, begun, captures()))
    assert bool(wrong(rows)) is not agrees
    assert [row.chaos > 1 for row in rows] == [False, True, False]

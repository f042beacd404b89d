"""The gradient as a Core ML package, saved, read back and run: an app that descends by it follows eager PyTorch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pocketfed.core.backbones import BACKBONES, PHONES
from pocketfed.core.captures import embedded_photos, embedded_sounds
from pocketfed.core.hyper import Hyper
from pocketfed.core.learning_step import gradient_method, step_method
from pocketfed.core.learning_task import LearningTask, initial_weights, learning_task
from pocketfed.core.modality import Modality
from pocketfed.core.views import PhotoView, SoundView
from pocketfed.export.coreml.convert import save
from pocketfed.export.coreml.graph import refuse_unknown
from pocketfed.export.coreml.training import INPUTS, training_package
from pocketfed.export.lowering import Passes, lower
from pocketfed.export.mil import execute, read_package
from tests.conftest import random_inputs


class Tiny(nn.Module):
    """Dense and depthwise convolutions, running statistics, and a norm of groups: [n, 3, h, w] -> [n, 8]."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False)
        self.batch = nn.BatchNorm2d(8)
        self.across = nn.Conv2d(8, 8, (1, 5), padding=(0, 2), groups=8)
        self.group = nn.GroupNorm(2, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.silu(self.batch(self.stem(x)))
        pooled: Tensor = nn.functional.hardswish(self.group(x + self.across(x))).mean((2, 3))
        return pooled


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> LearningTask:
    monkeypatch.setitem(BACKBONES, "tiny", (Tiny, 8))
    return learning_task("tiny", {Modality.PHOTO: PhotoView(side=16)}, batch=4)


@dataclass(frozen=True)
class Descent:
    """What an app that has the package and momentum of its own comes to, beside eager PyTorch.

    Attributes:
        found, wanted: the losses of the app's steps and of eager's, each on its own weights.
        apart: the largest difference of the package's gradient from eager's at the app's own weights, as a share of
            the largest of all.
        ours, eager: the last weights.
    """

    found: list[float]
    wanted: list[float]
    apart: float
    ours: NDArray[np.float32]
    eager: NDArray[np.float32]


Batches = list[tuple[Tensor, Tensor]]


def drawn(task: LearningTask, modality: Modality, items: NDArray[Any], steps: int) -> Batches:
    """Captures and noise of each step."""
    shape, rng = tuple(step_method(task, [modality]).example[4].shape), np.random.default_rng(0)
    return [
        (
            torch.from_numpy(items[rng.choice(len(items), task.batch, replace=False)]),
            torch.from_numpy(rng.random(shape, dtype=np.float32)),
        )
        for _ in range(steps)
    ]


def eager_descent(
    task: LearningTask, modality: Modality, batches: Batches, rates: Hyper, begin: Tensor
) -> tuple[list[float], Tensor]:
    """Eager PyTorch's losses, and its last weights."""
    step, hyper = step_method(task, [modality]).function, torch.from_numpy(rates.vector([task.batch - 1]))
    theta, state, losses = begin, torch.zeros(task.state_size), []
    for captures, noise in batches:
        loss, theta, state = step(theta, state, theta, captures, noise, hyper)
        losses.append(float(loss))
    return losses, theta


def descend(task: LearningTask, modality: Modality, path: Path, batches: Batches, rates: Hyper) -> Descent:
    """Saves the package to `path` and takes a step a batch with it."""
    save(training_package(task, modality), path)
    program, gradient = read_package(path), gradient_method(task, modality).function
    hyper, trained = torch.from_numpy(rates.vector([task.batch - 1])), task.layout.trained
    ours = initial_weights(task, 0)
    wanted, eager = eager_descent(task, modality, batches, rates, torch.from_numpy(ours.copy()))
    momentum: NDArray[np.float32] = np.zeros(trained, np.float32)
    found, apart = [], 0.0
    for captures, noise in batches:
        theta = torch.from_numpy(ours.copy())
        results = execute(program, dict(zip(INPUTS, (theta, captures.float(), noise, hyper), strict=True)))
        right = gradient(theta, captures, noise, hyper)[1]
        apart = max(apart, float((results["gradient"] - right).abs().max() / right.abs().max()))
        found.append(float(results["loss"]))
        slope = results["gradient"].numpy() + rates.weight_decay * ours[:trained]
        momentum = (rates.momentum * momentum + slope).astype(np.float32)
        ours[:trained] -= rates.learning_rate * momentum
        if len(ours) > trained:
            ours[trained:] = results["statistics"].numpy()
    return Descent(found, wanted, apart, ours, eager.numpy())


def test_an_app_follows_eager_steps(tiny: LearningTask, tmp_path: Path) -> None:
    photos = embedded_photos(32, 16).train.items
    rates = Hyper(learning_rate=0.05, momentum=0.8, weight_decay=1e-3)
    batches = drawn(tiny, Modality.PHOTO, photos, 4)
    descent = descend(tiny, Modality.PHOTO, tmp_path / "T.mlpackage", batches, rates)
    assert np.allclose(descent.found, descent.wanted, rtol=0, atol=1e-5)
    assert abs(descent.wanted[0] - descent.wanted[-1]) > 1e-3  # it learns
    assert np.abs(descent.ours - descent.eager).max() < 1e-4 * np.abs(descent.eager).max()


def test_the_gradient_is_that_of_autograd(tiny: LearningTask) -> None:
    """Against differences of the loss; the step itself has its own tests."""
    method = gradient_method(tiny, Modality.PHOTO)
    theta, _, _, captures, noise, hyper = random_inputs(step_method(tiny, [Modality.PHOTO]), tiny, seed=5)
    _, gradient, statistics = method.function(theta, captures, noise, hyper)
    assert gradient.shape == (tiny.layout.trained,)
    assert statistics.shape == (tiny.layout.size - tiny.layout.trained,)
    direction = torch.zeros_like(theta)
    direction[: tiny.layout.trained] = gradient / gradient.norm()
    up, down = (
        method.function(theta + sign * 1e-2 * direction, captures, noise, hyper)[0] for sign in (1, -1)
    )
    assert float((up - down) / 2e-2) == pytest.approx(float(gradient.norm()), rel=2e-2)


@pytest.mark.long
@pytest.mark.parametrize("name", [*PHONES, "timm:mobilenetv3_small_050"])
def test_core_ml_has_a_twin_of_every_operator_of_every_family(name: str) -> None:
    task = learning_task(name, {Modality.SOUND: SoundView(samples=4000, height=32, width=32)}, batch=4)
    method = gradient_method(task, Modality.SOUND)
    refuse_unknown(lower(method.function, method.example, Passes(batch_pieces=False)))


@pytest.mark.long
@pytest.mark.parametrize("modality", list(Modality))
def test_ten_steps_of_the_default_backbone(modality: Modality, tmp_path: Path) -> None:
    task = learning_task("compact", {Modality.PHOTO: PhotoView(), Modality.SOUND: SoundView()}, batch=32)
    every = {Modality.PHOTO: embedded_photos(128, 32), Modality.SOUND: embedded_sounds(128, 1.0)}
    batches, rates = drawn(task, modality, every[modality].train.items, 10), Hyper()
    descent = descend(task, modality, tmp_path / "T.mlpackage", batches, rates)
    assert descent.apart < 1e-4
    assert len(descent.ours) == task.layout.trained  # no statistics, so two outputs
    # Ten steps can make much of a rounding: on these photos two eager runs that begin one apart come to differ by more
    # than 1e-4, on processors that round one way or another. That much is no fault of the package.
    begin = torch.from_numpy(initial_weights(task, 0))
    moved = [
        np.subtract(eager_descent(task, modality, batches, rates, roundings(begin, seed))[0], descent.wanted)
        for seed in range(3)
    ]
    assert np.abs(np.subtract(descent.found, descent.wanted)).max() < max(1e-4, 3 * np.abs(moved).max())
    assert np.abs(descent.ours - descent.eager).max() < 1e-4 * np.abs(descent.eager).max()


def roundings(theta: Tensor, seed: int) -> Tensor:
    """The same weights but for about the last bit of each."""
    noise = torch.randn(theta.shape, generator=torch.Generator().manual_seed(seed))
    return theta * (1 + torch.finfo(torch.float32).eps / 2 * noise)

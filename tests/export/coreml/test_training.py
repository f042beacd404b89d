"""The gradient as a Core ML package, saved, read back and run: an app that descends by it follows eager PyTorch."""

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


def descend(
    task: LearningTask, modality: Modality, path: Path, items: NDArray[Any], steps: int, rates: Hyper
) -> tuple[list[float], list[float], NDArray[np.float32], NDArray[np.float32]]:
    """Losses and last weights of an app that has the package and momentum of its own, and those of eager PyTorch."""
    save(training_package(task, modality), path)
    program, method, rng = read_package(path), step_method(task, [modality]), np.random.default_rng(0)
    eager, ours, trained = (
        torch.from_numpy(initial_weights(task, 0)),
        initial_weights(task, 0),
        task.layout.trained,
    )
    state, hyper = torch.zeros(task.state_size), torch.from_numpy(rates.vector([task.batch - 1]))
    momentum: NDArray[np.float32] = np.zeros(trained, np.float32)
    wanted, found = [], []
    for _ in range(steps):
        captures = torch.from_numpy(items[rng.choice(len(items), task.batch, replace=False)])
        noise = torch.from_numpy(rng.random(tuple(method.example[4].shape), dtype=np.float32))
        loss, eager, state = method.function(eager, state, eager, captures, noise, hyper)
        wanted.append(float(loss))
        inputs = (torch.from_numpy(ours.copy()), captures.float(), noise, hyper)
        results = execute(program, dict(zip(INPUTS, inputs, strict=True)))
        found.append(float(results["loss"]))
        slope = results["gradient"].numpy() + rates.weight_decay * ours[:trained]
        momentum = (rates.momentum * momentum + slope).astype(np.float32)
        ours[:trained] -= rates.learning_rate * momentum
        if len(ours) > trained:
            ours[trained:] = results["statistics"].numpy()
    return found, wanted, ours, eager.numpy()


def test_an_app_follows_eager_steps(tiny: LearningTask, tmp_path: Path) -> None:
    photos = embedded_photos(32, 16).train.items
    rates = Hyper(learning_rate=0.05, momentum=0.8, weight_decay=1e-3)
    found, wanted, ours, eager = descend(tiny, Modality.PHOTO, tmp_path / "T.mlpackage", photos, 4, rates)
    assert np.allclose(found, wanted, rtol=0, atol=1e-5)
    assert abs(wanted[0] - wanted[-1]) > 1e-3  # it learns
    assert np.abs(ours - eager).max() < 1e-4 * np.abs(eager).max()


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
    items = every[modality].train.items
    found, wanted, ours, eager = descend(task, modality, tmp_path / "T.mlpackage", items, 10, Hyper())
    assert np.allclose(found, wanted, rtol=0, atol=1e-4)
    assert len(ours) == task.layout.trained  # no statistics, so two outputs
    assert np.abs(ours - eager).max() < 1e-4 * np.abs(eager).max()

"""Networks with batch normalisation: running statistics are the last slices of the layout and leave the step."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from pocketfed.core.backbones import BACKBONES
from pocketfed.core.encoder import build_encoder
from pocketfed.core.layout import Layout, Role
from pocketfed.core.learning_step import embedding, step_method
from pocketfed.core.learning_task import LearningTask, learning_task
from pocketfed.core.modality import Modality
from pocketfed.core.views import PhotoView
from pocketfed.export.lowering import lower
from tests.conftest import random_inputs


class Normalised(nn.Module):
    """Two convolutions, each with batch normalisation."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm1 = nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8)
        self.second, self.norm2 = nn.Conv2d(8, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8, momentum=0.3)

    def forward(self, x: Tensor) -> Tensor:
        """[n, 3, h, w] -> [n, 8]."""
        x = functional.silu(self.norm1(self.first(x)))
        return functional.silu(self.norm2(self.second(x))).mean((2, 3))


@pytest.fixture
def task(monkeypatch: pytest.MonkeyPatch) -> LearningTask:
    monkeypatch.setitem(BACKBONES, "normalised", (Normalised, 8))
    return learning_task("normalised", {Modality.PHOTO: PhotoView(side=16)}, batch=6)


def test_buffers_come_last_and_are_not_trained(task: LearningTask) -> None:
    roles = [part.role for part in task.layout.slices]
    assert roles == sorted(roles, key=lambda role: role is Role.BUFFER)
    assert task.layout.buffers == tuple(
        f"backbone.norm{i}.running_{what}" for i in (1, 2) for what in ("mean", "var")
    )
    assert task.layout.size - task.layout.trained == 4 * 8
    assert Layout.from_json(task.layout.to_json()) == task.layout
    assert task.state_size == task.layout.trained


def test_a_step_moves_them_as_torch_does(task: LearningTask) -> None:
    method = step_method(task, [Modality.PHOTO])
    theta, state, _, captures, noise, hyper = random_inputs(method, task, seed=3)
    encoder = build_encoder("normalised", seed=3)
    anchor = theta.clone()
    view = task.views[Modality.PHOTO]
    _, after, _ = method.function(theta, state, anchor, captures, noise, hyper)
    base = view.front(captures)
    encoder([torch.cat([view.draw(base, noise[:, k]) for k in range(2)])], torch.ones(12))
    expected = Layout.values(encoder)
    for name in task.layout.buffers:
        assert torch.equal(task.layout.unpack(after)[name], expected[name])
        assert not torch.equal(task.layout.unpack(theta)[name], expected[name])
    assert torch.equal(theta, anchor)


def test_embedding_reads_them(task: LearningTask) -> None:
    theta = torch.from_numpy(np.random.default_rng(0).uniform(0.5, 1.5, task.layout.size).astype(np.float32))
    photos = torch.randint(0, 256, (6, 16, 16, 3), dtype=torch.uint8)
    embed = embedding(task, Modality.PHOTO)
    (features,) = embed(theta, photos)
    assert torch.allclose(embed(theta, photos[:1])[0], features[:1], atol=1e-6)  # independent of the batch
    other = theta.clone()
    other[task.layout.trained :] += 1
    assert not torch.allclose(embed(other, photos)[0], features)


def test_the_lowered_step_moves_them_too(task: LearningTask) -> None:
    method = step_method(task, [Modality.PHOTO])
    lowered = lower(method.function, method.example)
    inputs = random_inputs(method, task, seed=4)
    for ours, eager in zip(lowered(*inputs), method.function(*inputs), strict=True):
        assert torch.allclose(ours, eager, rtol=1e-4, atol=1e-6)

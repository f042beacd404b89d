"""The package's backbones as programs: learning steps on the ExecuTorch runtime against eager, and fused inference."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from pocketfed.core.backbones import BACKBONES
from pocketfed.core.backbones.audio_inception_next import PHONE
from pocketfed.core.backbones.audio_rep_inception_next import AudioRepInceptionNeXt
from pocketfed.core.backbones.linear_branches import Form
from pocketfed.core.backbones.repvgg import RepVgg, Size
from pocketfed.core.captures import embedded_photos
from pocketfed.core.hyper import Hyper
from pocketfed.core.learning_step import embedding, step_method
from pocketfed.core.learning_task import learning_task
from pocketfed.core.modality import Modality
from pocketfed.core.views import PhotoView, SoundView, View
from pocketfed.export.bound import bound_backbone
from pocketfed.export.inference import export_inference
from pocketfed.export.lowering import lower
from pocketfed.export.program import export_program
from pocketfed.mobile_client.runtime import ExecutorchRuntime, TorchRuntime
from pocketfed.simulator.bench.agreement import Verdict, agree
from tests.conftest import random_inputs


def verdict(name: str, modality: Modality, side: int, batch: int) -> Verdict:
    """Three steps at the usual learning rate, on ExecuTorch and in eager PyTorch."""
    view: View = (
        PhotoView(side=side) if modality is Modality.PHOTO else SoundView(height=side, width=3 * side // 2)
    )
    task = learning_task(name, {modality: view}, batch)
    method = step_method(task, [modality])
    program = ExecutorchRuntime(export_program([method]).buffer)
    theta, state, _, captures, noise, _ = (part.numpy() for part in random_inputs(method, task, seed=3))
    inputs = [theta, 0 * state, theta, captures, noise, Hyper().vector([batch])]
    return agree(program, TorchRuntime([method]), method.name, inputs, task.layout.trained, 3)


def test_three_steps_of_a_tiny_network_equal_eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """One block with multipliers and batch normalisation."""
    build = partial(RepVgg, Size((6,), (1,), (2,), nn.SiLU), Form.REPOPT)
    monkeypatch.setitem(BACKBONES, "tiny", (build, 6))
    found = verdict("tiny", Modality.PHOTO, 16, 4)
    assert found.holds, found
    assert found.program.change < 1e-3


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "modality", "side"),
    [("repvgg", Modality.PHOTO, 32), ("repvgg", Modality.SOUND, 32), ("ghost", Modality.PHOTO, 16)],
)
def test_three_steps_of_phone_sizes_equal_eager(name: str, modality: Modality, side: int) -> None:
    """No operator is left to a slow kernel; benchmarks/programs.py runs every other backbone so."""
    found = verdict(name, modality, side, 8)
    assert found.holds, found


def test_the_lowered_step_multiplies_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    build = partial(RepVgg, Size((6, 8), (1, 2), (2, 2), nn.SiLU), Form.REPOPT)
    monkeypatch.setitem(BACKBONES, "small", (build, 8))
    task = learning_task("small", {Modality.PHOTO: PhotoView(side=16)}, batch=6)
    method, plain = (step_method(one, [Modality.PHOTO]) for one in (task, replace(task, multipliers=None)))
    lowered = lower(method.function, method.example)
    inputs = random_inputs(method, task, seed=4)
    for ours, eager in zip(lowered(*inputs), method.function(*inputs), strict=True):
        assert torch.allclose(ours, eager, rtol=1e-4, atol=1e-6)
    assert not torch.allclose(lowered(*inputs)[1], plain.function(*inputs)[1], atol=1e-4)


def test_inference_programs_are_fused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three long kernels per axis become one; features stay those of the network that was trained."""
    size = replace(PHONE, width=8, blocks=(1, 1))
    monkeypatch.setitem(BACKBONES, "small", (partial(AudioRepInceptionNeXt, size), 16))
    task = learning_task("small", {Modality.PHOTO: PhotoView(side=16)}, batch=6)
    rng = np.random.default_rng(0)
    weights = rng.normal(0, 0.2, task.layout.size).astype(np.float32)
    weights[task.layout.trained :] = rng.uniform(0.5, 1.5, task.layout.size - task.layout.trained)
    program = export_inference(task, weights, Modality.PHOTO, 2)
    # Stem; per block head, two axes, widening and narrowing; one shortcut.
    convolutions = [part for part in bound_backbone(task, weights).modules() if isinstance(part, nn.Conv2d)]
    assert len(convolutions) == 1 + 2 * 5 + 1
    photos = embedded_photos(96, side=16).train.items[:2]
    (found,) = ExecutorchRuntime(program.buffer).run("embed_photo", [photos])
    (expected,) = embedding(task, Modality.PHOTO)(torch.from_numpy(weights), torch.from_numpy(photos))
    np.testing.assert_allclose(found, expected.detach().numpy(), rtol=1e-3, atol=1e-4)

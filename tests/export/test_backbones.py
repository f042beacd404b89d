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
from pocketfed.core.learning_step import embedding, step_method
from pocketfed.core.learning_task import learning_task
from pocketfed.core.modality import Modality
from pocketfed.core.views import PhotoView, SoundView
from pocketfed.export.inference import export_inference
from pocketfed.export.lowering import lower
from pocketfed.export.program import export_program
from pocketfed.mobile_client.runtime import ExecutorchRuntime
from tests.conftest import random_inputs

PHONES = ("repvgg",)


@pytest.mark.long
@pytest.mark.parametrize("modality", list(Modality))
@pytest.mark.parametrize("name", PHONES)
def test_three_steps_on_the_runtime_equal_eager(name: str, modality: Modality) -> None:
    """A phone size on inputs of the usual size; no operator is left to a slow kernel."""
    task = learning_task(name, {Modality.PHOTO: PhotoView(), Modality.SOUND: SoundView()}, batch=8)
    method = step_method(task, [modality])
    runtime = ExecutorchRuntime(export_program([method]).buffer)
    theta, state, anchor, *rest = random_inputs(method, task, seed=3)
    ours, expected = [theta, torch.zeros_like(state)], [theta, torch.zeros_like(state)]
    for _ in range(3):
        found = runtime.run(method.name, [part.numpy() for part in (*ours, anchor, *rest)])
        loss, *ours = (torch.from_numpy(np.array(part)) for part in found)
        expected_loss, *expected = method.function(*expected, anchor, *rest)
        assert abs(loss - expected_loss) < 1e-4
        assert (ours[0] - expected[0]).norm() < 1e-4 * expected[0].norm()


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
    (report,) = program.methods.values()
    # Stem; per block head, two axes, widening and narrowing; one shortcut.
    assert report.operators["aten.convolution.default"] == 1 + 2 * 5 + 1
    photos = embedded_photos(96, side=16).train.items[:2]
    (found,) = ExecutorchRuntime(program.buffer).run("embed_photo", [photos])
    (expected,) = embedding(task, Modality.PHOTO)(torch.from_numpy(weights), torch.from_numpy(photos))
    np.testing.assert_allclose(found, expected.detach().numpy(), rtol=1e-3, atol=1e-4)

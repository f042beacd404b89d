"""Inference programs on the ExecuTorch runtime, against the eager embedding."""

from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.export import ExportedProgram

from pocketfed.core.backbones import BACKBONES
from pocketfed.core.captures import embedded_photos, embedded_sounds
from pocketfed.core.errors import ExportError
from pocketfed.core.learning_step import embedding
from pocketfed.core.learning_task import LearningTask, initial_weights, learning_task
from pocketfed.core.modality import Modality
from pocketfed.core.views import PhotoView, SoundView
from pocketfed.export import inference
from pocketfed.export.constant_operands import constants_on_the_right
from pocketfed.export.delegation import operator_name
from pocketfed.export.executorch import Program
from pocketfed.export.inference import export_inference
from pocketfed.export.inference_operators import inference_decompositions
from pocketfed.export.inspection import inspect_program
from pocketfed.export.lowering import lower
from pocketfed.mobile_client.runtime import ExecutorchRuntime

BATCH = 2


class Small(nn.Module):
    """Strided, biased and depthwise convolutions, GroupNorm, two activations, a linear layer; 8 features."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 12, 3, stride=2, padding=1)
        self.norm = nn.GroupNorm(3, 12)
        self.depthwise = nn.Conv2d(12, 12, 3, padding=1, groups=12, bias=False)
        self.second_norm = nn.GroupNorm(1, 12, affine=False)
        self.wide = nn.Conv2d(12, 64, 3, padding=1)
        self.head = nn.Linear(64, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = F.silu(self.norm(self.stem(x)))
        x = x + F.gelu(self.second_norm(self.depthwise(x)), approximate="tanh")
        features: Tensor = self.head(F.relu(self.wide(x)).mean((2, 3)))
        return features


class Running(nn.Module):
    """What XNNPACK has no kernel for, in a submodule with a name."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Conv2d(3, 8, 3)
        self.total = RunningTotal()

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.total(self.trunk(x))
        return features


class RunningTotal(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.cumsum(x.flatten(2), 2)[:, :, -1]


@pytest.fixture
def task_of(monkeypatch: pytest.MonkeyPatch) -> Any:
    def build(backbone: type[nn.Module]) -> LearningTask:
        monkeypatch.setitem(BACKBONES, "tested", (backbone, 8))
        return learning_task(
            "tested",
            {
                Modality.PHOTO: PhotoView(side=16),
                Modality.SOUND: SoundView(samples=4000, height=16, width=16),
            },
            batch=6,
        )

    return build


def captures_of(modality: Modality, count: int) -> NDArray[Any]:
    """The package's own photos of 16 pixels and sounds of 4,000 samples."""
    if modality is Modality.PHOTO:
        return embedded_photos(96, side=16).train.items[:count]
    return embedded_sounds(96, seconds=0.25).train.items[:count]


def run(program: Program, captures: NDArray[Any]) -> NDArray[np.float32]:
    (name,) = program.methods
    runtime = ExecutorchRuntime(program.buffer)
    return np.concatenate(
        [runtime.run(name, [captures[i : i + BATCH]])[0] for i in range(0, len(captures), BATCH)]
    )


def eager(
    task: LearningTask, weights: NDArray[np.float32], captures: NDArray[Any], modality: Modality
) -> Any:
    with torch.no_grad():
        return embedding(task, modality)(torch.from_numpy(weights), torch.from_numpy(captures))[0].numpy()


def cosine(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
    """[n, features] twice -> [n]."""
    return np.asarray((a * b).sum(1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)))


@pytest.mark.parametrize("modality", [Modality.PHOTO, Modality.SOUND])
def test_programs_in_both_precisions_equal_the_embedding(
    task_of: Any, modality: Modality, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts, decompose = list[Counter[str]](), inference._decompose

    def counted(exported: ExportedProgram) -> ExportedProgram:
        decomposed = decompose(exported)
        calls = [node for node in decomposed.graph.nodes if node.op == "call_function"]
        counts.append(Counter(map(operator_name, calls)))
        return decomposed

    monkeypatch.setattr(inference, "_decompose", counted)
    task = task_of(Small)
    weights, captures = initial_weights(task, 3), captures_of(modality, 40)
    expected = eager(task, weights, captures[:8], modality)

    passed = weights.copy()
    exact = export_inference(task, passed, modality, BATCH)
    passed[:] = 0.0  # the program has weights of its own
    np.testing.assert_allclose(run(exact, captures[:8]), expected, rtol=0, atol=1e-4)

    program = export_inference(task, weights, modality, BATCH, precision="int8", calibration=captures)
    found = run(program, captures[:8])
    assert cosine(found, expected).min() > 0.99
    # Features may share one large direction: against what tells captures apart, the error is small, too, but not none.
    spread = np.linalg.norm(expected - expected.mean(0))
    assert 1e-4 < np.linalg.norm(found - expected) / spread < 0.2
    assert len(program.buffer) < len(exact.buffer)

    for built in (exact, program):
        assert built.methods == (f"embed_{modality}",)
        parts = inspect_program(built.buffer)[f"embed_{modality}"]
        assert len(parts.delegates) == 1
        assert parts.slow == {}
    assert all(one["aten.convolution.default"] >= 3 for one in counts)  # XNNPACK's own, not products
    per_channel = "quantized_decomposed.dequantize_per_channel.default"
    assert [one[per_channel] for one in counts] == [0, 4]  # every weight


def test_an_operator_that_nothing_covers_is_named_with_its_module(task_of: Any) -> None:
    task = task_of(Running)
    weights = initial_weights(task, 0)
    with pytest.raises(
        ExportError, match=r"(?s)'embed_photo': aten\.cumsum.* in module backbone\.total.*allow_portable"
    ):
        export_inference(task, weights, Modality.PHOTO, BATCH)
    program = export_inference(task, weights, Modality.PHOTO, BATCH, allow_portable=True)
    assert "aten::cumsum" in inspect_program(program.buffer)["embed_photo"].slow
    captures = captures_of(Modality.PHOTO, BATCH)
    expected = eager(task, weights, captures, Modality.PHOTO)
    np.testing.assert_allclose(run(program, captures), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("batch", [1, 3])
def test_products_keep_their_constant_once_and_on_the_right(batch: int) -> None:
    generator = torch.Generator().manual_seed(batch)
    left, right = torch.randn(4, 5, generator=generator), torch.randn(6, 2, generator=generator)

    def step(x: Tensor) -> tuple[Tensor]:  # [batch, 5, 6] -> [batch, 4, 2]
        return (torch.bmm(torch.bmm(left.expand(batch, -1, -1), x), right.expand(batch, -1, -1)),)

    x = torch.randn(batch, 5, 6, generator=generator)
    module = constants_on_the_right(lower(step, (x,)))
    torch.testing.assert_close(module(x)[0], left @ x @ right)
    products = [n for n in module.graph.nodes if n.op == "call_function" and "mm" in str(n.target)]
    assert [str(node.target) for node in products] == ["aten.mm.default"] * 2
    assert [node.args[1].op for node in products] == ["get_attr"] * 2
    assert sum(buffer.numel() for buffer in module.buffers()) == left.numel() + right.numel()


@pytest.mark.parametrize(
    ("weights", "modality", "precision", "calibration", "message"),
    [
        (None, Modality.PHOTO, "int8", None, "needs captures to calibrate on"),
        (
            None,
            Modality.PHOTO,
            "int8",
            np.zeros((1, 16, 16, 3), np.uint8),
            r"\[1, 16, 16, 3\].* at least the batch, 2",
        ),
        (
            None,
            Modality.PHOTO,
            "int8",
            np.zeros((9, 32, 32, 3), np.uint8),
            r"\[9, 32, 32, 3\].*\[n, 16, 16, 3\]",
        ),
        (None, Modality.PHOTO, "int8", np.zeros((9, 16, 16, 3), np.float32), "are torch.float32"),
        (
            np.zeros(7, np.float32),
            Modality.PHOTO,
            "float32",
            None,
            r"float32 \[7\], but compact takes float32 \[\d+\]",
        ),
        (np.inf, Modality.PHOTO, "float32", None, "not finite"),
        (None, Modality.SOUND, "float32", None, "no view of sound captures; it learns from photo"),
    ],
)
def test_what_does_not_fit_is_an_export_error(
    weights: Any, modality: Modality, precision: Literal["float32", "int8"], calibration: Any, message: str
) -> None:
    task = learning_task("compact", {Modality.PHOTO: PhotoView(side=16)}, batch=6)
    if not isinstance(weights, np.ndarray):
        weights = initial_weights(task, 0) + np.float32(weights or 0.0)
    with pytest.raises(ExportError, match=message):
        export_inference(task, weights, modality, BATCH, precision=precision, calibration=calibration)


class Applied(nn.Module):
    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.function(x)
        return result


# PyTorch's own use of what it deprecates; `export_inference` silences it.
@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")
@pytest.mark.parametrize(
    "function",
    [
        lambda x: F.group_norm(x, 3),
        lambda x: F.group_norm(x, 2, torch.arange(6.0), torch.arange(6.0) - 2.0, eps=1e-3),
        lambda x: F.group_norm(x.flatten(2), 3),
        lambda x: x.mean((2, 3)),
        lambda x: x.mean((-1, 2), keepdim=True),
        lambda x: x.mean(1),
        lambda x: F.adaptive_avg_pool2d(x, 1),
        lambda x: F.gelu(x),
        lambda x: F.gelu(x, approximate="tanh"),
        lambda x: F.layer_norm(x, [5]),
        lambda x: torch.cat(x.split([1, 3, 2], 1)[::-1], 1),
        lambda x: x[:, -2] + x.unbind(1)[0],
    ],
)
def test_decompositions_equal_the_operators(function: Any) -> None:
    x = 3.0 + 2.0 * torch.randn(2, 6, 4, 5, generator=torch.Generator().manual_seed(0))
    exported = torch.export.export(Applied(function), (x,), strict=False)
    decomposed = exported.run_decompositions(inference_decompositions())
    targets: Sequence[str] = [str(node.target) for node in decomposed.graph.nodes]
    assert not any("norm" in target for target in targets)
    torch.testing.assert_close(decomposed.module()(x), function(x), rtol=1e-5, atol=1e-5)

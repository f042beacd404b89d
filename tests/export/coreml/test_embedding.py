"""Embeddings for Core ML, on their own and inside an ExecuTorch program, with weights in all their forms."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pocketfed.core.backbones import BACKBONES
from pocketfed.core.captures import embedded_photos, embedded_sounds
from pocketfed.core.errors import ConfigError, ExportError
from pocketfed.core.head import Head, Trial
from pocketfed.core.learning_step import embedding
from pocketfed.core.learning_task import LearningTask, initial_weights, learning_task
from pocketfed.core.modality import Modality
from pocketfed.core.views import PhotoView, SoundView
from pocketfed.export.coreml.compression import Weights, choose_weights, compressed
from pocketfed.export.coreml.convert import package_files, save
from pocketfed.export.coreml.delegate import delegated_program, embedded_package
from pocketfed.export.coreml.embedding import BATCHES, embedding_package
from pocketfed.export.inspection import inspect_program
from pocketfed.export.mil import Program, execute, read_package
from pocketfed.export.mil.operators import OPERATORS
from pocketfed.export.mil.package import dtype_of
from pocketfed.export.quiet import coremltools

SIDE = 16


class Small(nn.Module):
    """[n, 3, h, w] -> [n, 24]."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, stride=2, padding=1)
        self.norm = nn.GroupNorm(4, 16)
        self.wide = nn.Conv2d(16, 24, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        pooled: Tensor = self.wide(nn.functional.silu(self.norm(self.stem(x)))).mean((2, 3))
        return pooled


def model_of(package: Path) -> bytes:
    (file,) = package.rglob("*.mlmodel")
    return file.read_bytes()


def precision_of(package: Program, operator: str) -> set[str]:
    return {
        dtype_of(output.type.tensorType)
        for operation in package.block.operations
        for output in operation.outputs
        if operation.type == operator
    }


@pytest.fixture
def task(monkeypatch: pytest.MonkeyPatch) -> LearningTask:
    monkeypatch.setitem(BACKBONES, "small", (Small, 24))
    return learning_task("small", {Modality.PHOTO: PhotoView(side=SIDE)}, batch=4)


def photos(count: int) -> Tensor:
    return torch.from_numpy(embedded_photos(16, side=SIDE).train.items[:count])


def errors(task: LearningTask, weights: NDArray[np.float32], package: Path) -> float:
    rows = photos(2)
    (wanted,) = embedding(task, Modality.PHOTO)(torch.from_numpy(weights), rows)
    found = execute(read_package(package), {"captures": rows.float()})["embedding"]
    return float((found - wanted).abs().max() / wanted.abs().max())


def test_weights_in_fewer_bits(task: LearningTask, tmp_path: Path) -> None:
    weights = initial_weights(task, 0)
    sizes, kinds = dict[str, int](), dict[str, set[str]]()
    plain = embedding_package(task, weights, Modality.PHOTO, [2])
    for stored in Weights:
        path = tmp_path / f"{stored}.mlpackage"
        save(compressed(plain, stored), path)
        sizes[stored] = sum(file.stat().st_size for file in path.rglob("*.bin"))
        kinds[stored] = {operation.type for operation in read_package(path).block.operations}
        assert errors(task, weights, path) < {"float16": 2e-3, "int8": 2e-2, "palette6": 0.1}[stored]
    assert sizes["palette6"] < sizes["int8"] < sizes["float16"]
    assert "constexpr_affine_dequantize" in kinds["int8"]
    assert "constexpr_lut_to_dense" in kinds["palette6"]
    assert choose_weights("int8") is Weights.INT8
    with pytest.raises(ConfigError, match="stored as 'int4'; choose one of: float16, int8, palette6"):
        choose_weights("int4")


def test_the_backbone_is_in_half_precision_and_the_head_is_not(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Although both are linear maps. Of one whose bias is zero the converter makes a product with a name of its own."""

    class Linear(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.map = nn.Linear(3, 24)
            nn.init.zeros_(self.map.bias)

        def forward(self, x: Tensor) -> Tensor:
            mapped: Tensor = self.map(x.mean((2, 3)))
            return mapped

    monkeypatch.setitem(BACKBONES, "linear", (Linear, 24))
    task = learning_task("linear", {Modality.PHOTO: PhotoView(side=SIDE)}, batch=4)
    rng = np.random.default_rng(0)
    weight, bias = (rng.random(shape, dtype=np.float32) for shape in ((5, 24), (5,)))
    head = Head(Modality.PHOTO, tuple("abcde"), weight, bias, "", "", Trial((), (), ()))
    model = embedding_package(task, initial_weights(task, 0), Modality.PHOTO, [2], head=head)
    save(model, tmp_path / "c.mlpackage")
    products = {
        int(output.type.tensorType.dimensions[1].constant.size): dtype_of(output.type.tensorType)
        for operation in read_package(tmp_path / "c.mlpackage").block.operations
        for output in operation.outputs
        if operation.type in ("matmul", "linear")
    }
    assert products == {24: "FLOAT16", 5: "FLOAT32"}
    assert [path.name for path in (tmp_path / "c.mlpackage").iterdir() if path.is_file()] == ["Manifest.json"]


def test_a_saved_package_has_no_order_that_differs_from_process_to_process(
    task: LearningTask, tmp_path: Path
) -> None:
    """protobuf's maps do, unless they are sorted."""
    save(embedding_package(task, initial_weights(task, 0), Modality.PHOTO, [2]), tmp_path / "a.mlpackage")
    content = model_of(tmp_path / "a.mlpackage")
    specification = coremltools().proto.Model_pb2.Model.FromString(content)
    assert content == specification.SerializeToString(deterministic=True)
    assert len(specification.mlProgram.functions["main"].block_specializations) == 1


@pytest.mark.long
def test_two_processes_make_the_same_package(tmp_path: Path) -> None:
    digests = set()
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        made = subprocess.run(
            [sys.executable, "-c", MAKE, str(tmp_path / f"{seed}.mlpackage")],
            env=environment, check=True, capture_output=True, text=True, cwd=Path(__file__).parents[3],
        )  # fmt: skip
        digests.add(made.stdout)
    assert len(digests) == 1
    assert len(digests.pop().split()) == 3  # model, weights, Manifest.json


MAKE = """
import hashlib, sys
from pathlib import Path
from pocketfed.core.backbones import BACKBONES
from pocketfed.core.learning_task import initial_weights, learning_task
from pocketfed.core.modality import Modality
from pocketfed.core.views import PhotoView
from pocketfed.export.coreml.convert import save
from pocketfed.export.coreml.embedding import embedding_package
from tests.export.coreml.test_embedding import SIDE, Small

BACKBONES["small"] = (Small, 24)
task = learning_task("small", {Modality.PHOTO: PhotoView(side=SIDE)}, batch=4)
place = Path(sys.argv[1])
save(embedding_package(task, initial_weights(task, 0), Modality.PHOTO, [2]), place)
for file in sorted(path for path in place.rglob("*") if path.is_file()):
    print(hashlib.sha256(file.read_bytes()).hexdigest())
"""


def test_sounds_come_in_batches_of_every_size_that_is_stated(
    task: LearningTask, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    heard = learning_task("small", {Modality.SOUND: SoundView(samples=4000, height=16, width=16)}, batch=4)
    weights = initial_weights(heard, 0)
    save(embedding_package(heard, weights, Modality.SOUND), tmp_path / "s.mlpackage")
    package = read_package(tmp_path / "s.mlpackage")
    rows = torch.from_numpy(embedded_sounds(2 * max(BATCHES), 0.25, 0).train.items[: max(BATCHES)])
    (wanted,) = embedding(heard, Modality.SOUND)(torch.from_numpy(weights), rows)
    assert BATCHES == (1, 8, 32)
    for batch in BATCHES:
        found = execute(package, {"captures": rows[:batch]})["embedding"]
        assert found.shape == (batch, 24)
        assert float((found - wanted[:batch]).abs().max() / wanted.abs().max()) < 2e-3
    specification = coremltools().proto.Model_pb2.Model.FromString(model_of(tmp_path / "s.mlpackage"))
    described = specification.description.input[0].type.multiArrayType
    assert specification.specificationVersion == coremltools().target.iOS17.value
    assert described.dataType == described.FLOAT32
    assert precision_of(package, "log") == precision_of(package, "matmul") == {"FLOAT32"}  # the front end
    assert precision_of(package, "conv") == precision_of(package, "silu") == {"FLOAT16"}  # the backbone
    assert [tuple(shape.shape) for shape in described.enumeratedShapes.shapes] == [
        (batch, *rows.shape[1:]) for batch in BATCHES
    ]


def test_a_network_for_batches_of_one_size_is_refused_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    class Four(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            pooled: Tensor = x.reshape(4, 3, -1).mean(2)
            return pooled

    monkeypatch.setitem(BACKBONES, "four", (Four, 3))
    heard = learning_task("four", {Modality.SOUND: SoundView(samples=4000, height=16, width=16)}, batch=4)
    with pytest.raises(ExportError, match=r"for batches of any size .*--no-coreml"):
        embedding_package(heard, initial_weights(heard, 0), Modality.SOUND)


def test_inside_an_executorch_program(task: LearningTask, tmp_path: Path) -> None:
    weights = initial_weights(task, 0)
    programs = [
        delegated_program(
            embedding_package(task, weights, Modality.PHOTO, [2]), "embed_photo", photos(2), features=24
        )
        for _ in range(2)
    ]
    assert programs[0] == programs[1]
    (parts,) = inspect_program(programs[0]).values()
    assert parts.delegates == ("CoreMLBackend",)
    assert parts.slow == {}
    assert errors(task, weights, embedded_package(programs[0], tmp_path)) < 2e-3
    with pytest.raises(ExportError, match="are no ExecuTorch program"):
        embedded_package(b"nothing", tmp_path)
    hostile = programs[0].replace(b"metadata.json"[::-1], b"../tadata.jso"[::-1])
    (tmp_path / "outer" / "inner").mkdir(parents=True)
    with pytest.raises(ExportError, match=r"cannot be unpacked: '\.\./tadata\.jso' is no name of a file"):
        embedded_package(hostile, tmp_path / "outer" / "inner")
    assert [path.name for path in (tmp_path / "outer").rglob("*")] == ["inner"]


def test_what_cannot_be_converted_is_named_with_its_module(
    task: LearningTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Odd(Small):
        def __init__(self) -> None:
            super().__init__()
            self.last = Erased()

        def forward(self, x: Tensor) -> Tensor:
            erased: Tensor = self.last(super().forward(x))
            return erased

    class Erased(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            erased: Tensor = torch.special.bessel_j0(x)
            return erased

    monkeypatch.setitem(BACKBONES, "small", (Odd, 24))
    odd = learning_task("small", task.views, batch=4)
    with pytest.raises(ExportError, match=r"bessel_j0.* on \[2, 24\] torch.float32 in module backbone\.last"):
        embedding_package(odd, initial_weights(odd, 0), Modality.PHOTO, [2])


def test_what_cannot_be_checked_is_not_made(task: LearningTask, monkeypatch: pytest.MonkeyPatch) -> None:
    model = embedding_package(task, initial_weights(task, 0), Modality.PHOTO, [2])
    assert "E.mlpackage/Manifest.json" in package_files(model, "E.mlpackage")
    monkeypatch.delitem(OPERATORS, "conv")
    with pytest.raises(
        ExportError, match=r"E\.mlpackage would have operators that cannot be checked here: conv\. Use other"
    ):
        package_files(model, "E.mlpackage")


class Inner(nn.Module):
    """One function as a module."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


@pytest.mark.parametrize(
    ("function", "refusal"),
    [
        (
            lambda x: nn.functional.avg_pool2d(x, 3, divisor_override=4),
            r"does not take aten\.avg_pool2d\.default on \[n, 16, 2, 2\] torch\.float32 in module backbone\.inner: divisor_override",
        ),
        (
            lambda x: x.topk(2, -1).values,
            r"cannot be checked here:\ntopk, made of aten\.topk\.default on several tensors in module backbone\.inner\nUse other",
        ),
    ],
    ids=["the converter gives up", "the interpreter does not know it"],
)  # fmt: skip
def test_what_is_refused_late_is_named_with_its_module_too_and_leaves_no_trace(
    task: LearningTask,
    function: Callable[[Tensor], Tensor],
    refusal: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Odd(Small):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Inner(function)

        def forward(self, x: Tensor) -> Tensor:
            pooled: Tensor = self.inner(self.norm(self.stem(x))).mean((2, 3))
            return pooled

    weights = initial_weights(task, 0)
    before = package_files(embedding_package(task, weights, Modality.PHOTO, [2]), "E.mlpackage")
    monkeypatch.setitem(BACKBONES, "small", (Odd, 16))
    odd = learning_task("small", task.views, batch=4)
    with pytest.raises(ExportError, match=refusal):
        embedding_package(odd, initial_weights(odd, 0), Modality.PHOTO)
    after = package_files(embedding_package(task, weights, Modality.PHOTO, [2]), "E.mlpackage")
    assert after == before, "names that a failed conversion had counted"

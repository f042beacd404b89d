"""Packages that coremltools saved, run again: equal to torch, and every fault has a sentence that names it."""

import json
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pocketfed.core.errors import BundleError, ProgramError
from pocketfed.export.coreml.convert import convert, exported, save
from pocketfed.export.mil import Precision, Program, execute, read_package
from pocketfed.export.mil.execute import unknown_operators
from pocketfed.export.quiet import coremltools, quiet

ct = coremltools()
compress = ct.optimize.coreml

ROWS = 3


class Zoo(nn.Module):
    """One of everything that networks here are made of."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.depthwise = nn.Conv2d(8, 8, (1, 5), padding=(0, 4), dilation=2, groups=8, bias=False)
        self.group = nn.GroupNorm(2, 8)
        self.query = nn.Linear(8, 8)
        self.layer = nn.LayerNorm(8)
        self.up = nn.ConvTranspose2d(8, 4, 2, stride=2)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.silu(self.norm(self.stem(x)))
        x = x + nn.functional.gelu(self.depthwise(x))
        x = nn.functional.hardswish(self.group(x))
        x = nn.functional.max_pool2d(x, 3, 2, 1) + nn.functional.avg_pool2d(x, 2)
        x = x + nn.functional.pad(self.up(x)[:, :, ::2, 1::2], (0, 0, 0, 0, 0, 4))
        tokens = self.layer(x.flatten(2).transpose(1, 2))  # [n, hw, 8]
        weights = torch.softmax(self.query(tokens) @ tokens.transpose(1, 2) * 0.5, -1)
        pooled = (weights @ tokens).mean(1)
        out: Tensor = self.head(pooled / pooled.norm(dim=1, keepdim=True).clamp(min=1e-3))
        return torch.cat([out, torch.log(out.abs() + 1e-2), torch.where(out > 0, out, -out)], 1)


@pytest.fixture(scope="module")
def zoo() -> nn.Module:
    torch.manual_seed(0)
    net = Zoo()
    for _ in range(3):
        net(torch.randn(16, 3, 16, 16))  # gives the batch normalisation statistics of its own
    return net.requires_grad_(False).eval()


@pytest.fixture(scope="module")
def model(zoo: nn.Module) -> Any:
    program = exported(zoo, torch.zeros(ROWS, 3, 16, 16))
    shape = ct.TensorType(name="x", shape=(ROWS, 3, 16, 16))
    return convert(program, [shape], ["y"], half=lambda node: False)


@pytest.fixture(scope="module")
def program(model: Any, tmp_path_factory: pytest.TempPathFactory) -> Program:
    path = tmp_path_factory.mktemp("zoo") / "zoo.mlpackage"
    save(model, path)
    return read_package(path)


def photos() -> Tensor:
    return torch.randn(ROWS, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def test_equals_torch(zoo: nn.Module, program: Program) -> None:
    found = execute(program, {"x": photos()})
    assert torch.allclose(found["y"], zoo(photos()), atol=1e-5)
    operators = {operation.type for operation in program.block.operations}
    assert {"conv", "conv_transpose", "max_pool", "avg_pool", "softmax", "layer_norm"} <= operators
    assert unknown_operators(program) == []


def test_half_precision_is_rounded_where_it_is_declared(zoo: nn.Module, tmp_path: Path) -> None:
    shape = ct.TensorType(name="x", shape=(ROWS, 3, 16, 16))
    save(convert(exported(zoo, photos()), [shape], ["y"], lambda node: True), tmp_path / "h.mlpackage")
    program = read_package(tmp_path / "h.mlpackage")
    exact, declared = (
        (execute(program, {"x": photos()}, precision)["y"] - zoo(photos())).abs().max()
        for precision in (Precision.EXACT, Precision.DECLARED)
    )
    assert 1e-6 < exact < declared < 0.1


@pytest.mark.parametrize("kind", ["palettised", "int8", "sparse"])
def test_compressed_weights(kind: str, model: Any, zoo: nn.Module, tmp_path: Path) -> None:
    makers = {
        "palettised": lambda: compress.palettize_weights(
            model,
            compress.OptimizationConfig(compress.OpPalettizerConfig("uniform", nbits=6, weight_threshold=0)),
        ),
        "int8": lambda: compress.linear_quantize_weights(
            model, compress.OptimizationConfig(compress.OpLinearQuantizerConfig(weight_threshold=0))
        ),
        "sparse": lambda: compress.prune_weights(
            model,
            compress.OptimizationConfig(
                compress.OpMagnitudePrunerConfig(target_sparsity=0.2, weight_threshold=0)
            ),
        ),
    }
    with quiet():
        smaller = makers[kind]()
        dense = compress.decompress_weights(smaller)
    found = []
    for name, made in (("smaller", smaller), ("dense", dense)):
        save(made, tmp_path / f"{name}.mlpackage")
        found.append(execute(read_package(tmp_path / f"{name}.mlpackage"), {"x": photos()})["y"])
    assert torch.allclose(found[0], found[1], atol=1e-5)
    assert not torch.allclose(found[0], zoo(photos()), atol=1e-3)
    operators = {
        operation.type for operation in read_package(tmp_path / "smaller.mlpackage").block.operations
    }
    assert any(name.startswith("constexpr_") for name in operators)


def test_a_value_is_kept_as_long_as_something_needs_it(
    program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pocketfed.export.mil.operators import OPERATORS

    made: list[weakref.ref[Tensor]] = []
    alive: list[int] = []

    def noting(operator: Callable[..., Any]) -> Callable[..., Any]:
        def run(**arguments: Any) -> Any:
            result = operator(**arguments)
            made.extend(weakref.ref(part) for part in (result if isinstance(result, tuple) else (result,)))
            alive.append(sum(one() is not None for one in made))
            return result

        return run

    for name, operator in OPERATORS.items():
        monkeypatch.setitem(OPERATORS, name, noting(operator))
    found = execute(program, {"x": photos()})
    assert len(made) > 40
    assert max(alive) < 10  # the last three rows are joined, each of some steps
    assert list(found) == ["y"]


def test_an_unknown_operator_is_named(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    from pocketfed.export.mil.operators import OPERATORS

    monkeypatch.delitem(OPERATORS, "softmax")
    assert unknown_operators(program) == ["softmax"]
    with pytest.raises(ProgramError, match=r"the operator 'softmax' \(.+\) is not known here"):
        execute(program, {"x": photos()})


@pytest.mark.parametrize("mistake", [ValueError, KeyError, IndexError, ZeroDivisionError, AttributeError])
def test_an_operator_that_cannot_work_is_named(
    mistake: type[Exception], program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pocketfed.export.mil.operators import OPERATORS

    def fail(x: torch.Tensor, axis: torch.Tensor) -> torch.Tensor:
        raise mistake("of no use")

    monkeypatch.setitem(OPERATORS, "softmax", fail)
    with pytest.raises(ProgramError, match=r"softmax '.+' failed: .*of no use"):
        execute(program, {"x": photos()})


def test_inputs_are_checked(program: Program) -> None:
    with pytest.raises(ProgramError, match="needs an input 'x'"):
        execute(program, {})
    with pytest.raises(ProgramError, match=r"'x' is \[1, 3, 16, 16\], the program takes \[3, 3, 16, 16\]"):
        execute(program, {"x": torch.zeros(1, 3, 16, 16)})


def test_another_shape_than_declared_is_an_error(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    from pocketfed.export.mil.operators import OPERATORS

    monkeypatch.setitem(OPERATORS, "softmax", lambda x, axis: x[:1])
    with pytest.raises(ProgramError, match=r"softmax .+ gives \[1, .+ declares \[3, "):
        execute(program, {"x": photos()})


def test_damage_is_said(program: Program, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="is no Core ML package"):
        read_package(tmp_path)
    with pytest.raises(BundleError, match="no ML program with a function named 'other'"):
        read_package(program.path, "other")
    entry = {"itemInfoEntries": {"a": {"path": "../../secret"}}, "rootModelIdentifier": "a"}
    (tmp_path / "Manifest.json").write_text(json.dumps(entry))
    with pytest.raises(BundleError, match="leads out of the package"):
        read_package(tmp_path)
    (tmp_path / "Manifest.json").write_text("[" * 5000)
    with pytest.raises(BundleError, match="is no Core ML package"):
        read_package(tmp_path)
    weights = program.weights / "weights" / "weight.bin"
    whole = weights.read_bytes()
    try:
        weights.write_bytes(bytes(len(whole)))
        with pytest.raises(BundleError, match="has no tensor at"):
            execute(program, {"x": photos()})
        weights.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(BundleError, match=r"values, .* are declared|cannot be read at"):
            execute(program, {"x": photos()})
    finally:
        weights.write_bytes(whole)

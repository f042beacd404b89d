"""Lowered graphs as Core ML programs: every operator's twin, and a sentence for those that have none."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from pocketfed.core.errors import ExportError
from pocketfed.export.coreml.convert import save
from pocketfed.export.coreml.graph import graph_package
from pocketfed.export.coreml.operators import RULES
from pocketfed.export.lowering import lower
from pocketfed.export.mil import execute, read_package

aten = torch.ops.aten


def ran(function: Callable[[Tensor], tuple[Tensor, ...]], x: Tensor, path: Path) -> list[Tensor]:
    module = lower(function, (x,))
    names = [f"y{place}" for place in range(len(function(x)))]
    save(graph_package(module, ["x"], names), path)
    found = execute(read_package(path), {"x": x})
    return [found[name] for name in names]


def everything(x: Tensor) -> tuple[Tensor, ...]:
    small = torch.tanh(x) * 0.4
    positive = small.abs() + 0.5
    return (
        torch.exp(small) / positive - torch.log(positive) + torch.sqrt(positive) * torch.rsqrt(positive),
        torch.sigmoid(x) + torch.sin(x) * torch.cos(x) + torch.floor(x) - torch.ceil(x),
        functional.relu(x) + functional.leaky_relu(x, 0.2) + functional.elu(x, 0.7) + functional.hardswish(x),
        torch.clamp(x, -0.5, 0.25) + torch.clamp(x, min=0.1) - torch.clamp(x, max=0.2),
        torch.maximum(x, 2 * small) + torch.minimum(x, -x) + functional.hardtanh(x, -0.3, 0.3),
        torch.cat([x[:, 1:, :3], functional.pad(x, (1, -2, 0, 1), value=0.5)[:, :6, ::2]], 1)[:, ::3],
        x.permute(0, 2, 1) @ x
        + functional.linear(x.permute(0, 2, 1)[0], small[0, :4], small[0, :4, 0]).sum(),
        x.mean((1, 2)),
        x.sum(),
        x.mean(2, keepdim=True).expand(2, 6, 3),
        torch.softmax(x, 1) + torch.softmax(2 * x, -1),
    )


def test_every_operator_computes_what_pytorch_does(tmp_path: Path) -> None:
    x = torch.randn(2, 6, 6, generator=torch.Generator().manual_seed(0))
    for found, wanted in zip(ran(everything, x, tmp_path / "e.mlpackage"), everything(x), strict=True):
        assert torch.allclose(found, wanted.reshape(found.shape), atol=1e-5)


def test_no_twin_is_left_out() -> None:
    called = {node.target for node in lower(everything, (torch.zeros(2, 6, 6),)).graph.nodes}
    # Bytes have a test of their own; averages over an image are written so only beside convolutions, as in test_training.
    assert {aten._to_copy.default, aten.mean.dim} == RULES.keys() - called


def test_bytes_come_as_floats(tmp_path: Path) -> None:
    x = torch.arange(24, dtype=torch.uint8).reshape(2, 12)
    module = lower(lambda captures: (captures.float() / 255.0,), (x,))
    save(graph_package(module, ["x"], ["y"]), tmp_path / "b.mlpackage")
    found = execute(read_package(tmp_path / "b.mlpackage"), {"x": x.float()})["y"]
    assert torch.allclose(found, x.float() / 255.0)


def test_an_operator_without_a_twin_is_named_with_its_module() -> None:
    class Strange(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Hardswish()
            self.tail = Counting()

        def forward(self, x: Tensor) -> tuple[Tensor]:
            return (self.tail(self.head(x)),)

    class Counting(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.cumsum(x, 1)

    module = lower(Strange(), (torch.zeros(2, 3),))
    assert aten.cumsum.default not in RULES
    with pytest.raises(
        ExportError, match=r"aten\.cumsum\.default on \[2, 3\], called in module tail, .*; multiply by"
    ):
        graph_package(module, ["x"], ["y"])

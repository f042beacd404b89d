"""Leaving out passes changes nothing but the time; fails loudly when ExecuTorch's list of passes changes."""

import warnings

import numpy as np
import pytest
import torch
from torch import nn

from pocketfed.export import executorch, xnnpack_passes
from pocketfed.export.xnnpack_passes import ABOUT, needed, only_needed_passes
from pocketfed.mobile_client.runtime import ExecutorchRuntime

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # ExecuTorch's own imports use deprecated functions
    from executorch.backends.xnnpack import xnnpack_preprocess
    from executorch.backends.xnnpack._passes import XNNPACKPassManager


@pytest.fixture
def stock() -> list[type]:
    passes: list[type] = XNNPACKPassManager(None).passes
    return passes


def test_every_listed_pass_is_one_of_executorchs(stock: list[type]) -> None:
    assert set(ABOUT) <= {one.__name__ for one in stock}, "ExecuTorch renamed or dropped a pass"
    assert len(stock) == 17, (
        "ExecuTorch has another number of passes: is a new one about an operator of ours?"
    )


def test_a_pass_stays_if_its_operator_occurs(stock: list[type]) -> None:
    everything = ["aten.convolution.default", "aten.upsample_bilinear2d.vec", "aten.prelu.default",
                  "aten.scaled_dot_product_attention.default", "aten.max_pool2d.default",
                  "aten._native_batch_norm_legit_no_training.default", "quantized_decomposed.quantize_per_tensor"]  # fmt: skip
    assert needed(stock, everything) == stock
    products = [one.__name__ for one in needed(stock, ["aten.mm.default", "aten.cat.default"])]
    assert set(products).isdisjoint(ABOUT)
    assert len(products) == len(stock) - len(ABOUT)


def test_the_preprocessing_is_put_back() -> None:
    before = xnnpack_preprocess.XNNPACKPassManager
    with only_needed_passes([]):
        assert xnnpack_preprocess.XNNPACKPassManager is not before
    assert xnnpack_preprocess.XNNPACKPassManager is before


class Products(nn.Module):
    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return torch.cat([torch.relu(torch.mm(a, b) + a), a * b, a - b, a, b], 1)


class Convolutions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.ReLU())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.net(x)
        return y


@pytest.mark.parametrize(
    ("module", "inputs"),
    [
        (Products(), (torch.randn(4, 4), torch.randn(4, 4))),
        (Convolutions().eval(), (torch.randn(1, 3, 8, 8),)),
    ],
)
def test_programs_compute_the_same_with_and_without(
    module: nn.Module, inputs: tuple[torch.Tensor, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    results = []
    for about in (ABOUT, {}):
        monkeypatch.setattr(xnnpack_passes, "ABOUT", about)
        runtime = ExecutorchRuntime(executorch.build_program({"forward": (module, inputs)}).buffer)
        results.append(runtime.run("forward", [tensor.numpy() for tensor in inputs])[0])
    assert np.array_equal(*results)
    assert np.allclose(results[0], module(*inputs).detach().numpy(), atol=1e-5)

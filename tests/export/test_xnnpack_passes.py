"""Leaving out passes changes nothing but the time; fails loudly when ExecuTorch's list of passes changes."""

import warnings

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from pocketfed.export import executorch, xnnpack_passes
from pocketfed.export.xnnpack_passes import ABOUT, OPTIONAL, needed, only_needed_passes
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
    assert {one.__name__ for one in stock} >= OPTIONAL, "ExecuTorch renamed or dropped a pass"
    assert len(stock) == 17, (
        "ExecuTorch has another number of passes: is a new one about an operator of ours?"
    )


@pytest.mark.parametrize("part", ABOUT)
def test_all_passes_stay_if_an_operator_of_theirs_occurs(stock: list[type], part: str) -> None:
    assert needed(stock, ["aten.mm.default", f"aten.{part}.default"]) == stock


def test_products_need_few_passes(stock: list[type]) -> None:
    products = [one.__name__ for one in needed(stock, ["aten.mm.default", "aten.cat.default"])]
    assert OPTIONAL.isdisjoint(products)
    assert len(products) == len(stock) - len(OPTIONAL)


def test_the_preprocessing_is_put_back() -> None:
    before = xnnpack_preprocess.XNNPACKPassManager
    with only_needed_passes([]):
        assert xnnpack_preprocess.XNNPACKPassManager is not before
    assert xnnpack_preprocess.XNNPACKPassManager is before


class Products(nn.Module):
    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return torch.cat([torch.relu(torch.mm(a, b) + a), a * b, a - b, a, b], 1)


def test_programs_compute_the_same_with_and_without(monkeypatch: pytest.MonkeyPatch) -> None:
    module, inputs = Products(), (torch.randn(4, 4), torch.randn(4, 4))
    results: list[NDArray[np.float32]] = []
    for optional in (OPTIONAL, frozenset[str]()):
        monkeypatch.setattr(xnnpack_passes, "OPTIONAL", optional)
        runtime = ExecutorchRuntime(executorch.build_program({"forward": (module, inputs)}).buffer)
        results.append(runtime.run("forward", [tensor.numpy() for tensor in inputs])[0])
    assert np.array_equal(results[0], results[1])
    assert np.allclose(results[0], module(*inputs).detach().numpy(), atol=1e-5)

"""Preparing a graph in place gives what ExecuTorch's passes give; fails loudly when that list of passes changes."""

import warnings
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pocketfed.export import executorch, xnnpack_passes
from pocketfed.export.edge_dialect import edge_program
from pocketfed.export.inspection import inspect_program
from pocketfed.export.lowering import lower
from pocketfed.export.xnnpack_passes import is_simple, passes_in_place
from pocketfed.mobile_client.runtime import ExecutorchRuntime
from tests.export.stock import stock_edge_program

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # ExecuTorch's own imports use deprecated functions
    from executorch.backends.xnnpack import xnnpack_preprocess
    from executorch.backends.xnnpack._passes import XNNPACKPassManager
    from executorch.exir._serialize import _dataclass


def test_executorchs_passes_are_those_we_replace() -> None:
    assert [one.__name__ for one in XNNPACKPassManager(None).passes] == [
        "XNNPACKRemoveCloneOpsTransform", "DimOrderOpsRevertPass", "ConvertToUpsampleBilinear2d",
        "ConvertToLinearPass", "PropagateCustomMetaPass", "ConvertToSDPAPass", "ConstPropPass",
        "FuseBatchNormPass", "DecomposeBatchNorm", "FuseActivationPass", "DecomposeConcatenate",
        "RemoveGetItemPass", "InsertPadQDQPass", "Conv1dUnsqueezePass", "PReLUReshapePass",
        "ChannelsLastTaggedReshapePass", "RemoveRedundantCopyPass",
    ], "ExecuTorch has other passes: is a new one about an operator of ours?"  # fmt: skip


def test_a_lowered_graph_is_simple() -> None:
    assert is_simple(edge_program(lower(lambda a: (torch.relu(a @ a + 1.0),), (torch.ones(3, 3),))))


class Joined(nn.Module):
    """A concatenation of twice as many parts, which XNNPACK takes up to five at a time."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.times = times

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return torch.cat([a, b] * self.times)


def test_concatenations_that_executorch_takes_apart_are_not_simple() -> None:
    assert is_simple(stock_edge_program(Joined(2), (torch.ones(2), torch.ones(2))))
    assert not is_simple(stock_edge_program(Joined(3), (torch.ones(2), torch.ones(2))))


class Folds(nn.Module):
    """Computes with a constant alone, which ExecuTorch does before it delegates."""

    constant: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("constant", torch.ones(3))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.exp(self.constant)


@pytest.mark.parametrize(
    ("module", "size"),
    [
        (Folds(), (3,)),
        (nn.Conv2d(1, 1, 3), (1, 1, 4, 4)),
        (nn.PReLU(), (1, 2)),
        (nn.AvgPool2d(2), (1, 1, 4, 4)),
    ],
)
def test_graphs_that_executorchs_passes_change_are_not_simple(
    module: nn.Module, size: tuple[int, ...]
) -> None:
    assert not is_simple(stock_edge_program(module.requires_grad_(False), (torch.ones(size),)))


class Average(nn.Module):
    """The mean of two axes, which come last after a permutation."""

    def __init__(self, order: tuple[int, ...], sizes: tuple[int, ...]) -> None:
        super().__init__()
        self.order, self.sizes = order, sizes

    def forward(self, x: Tensor) -> Tensor:
        means = (x + x).permute(self.order).mean((2, 3), keepdim=True)
        return means.reshape(self.sizes) * 2.0


@pytest.mark.parametrize(
    ("order", "sizes", "simple"),
    [
        ((0, 3, 1, 2), (2, 5), True),
        ((0, 3, 2, 1), (2, 5), False),  # the pixels of a row are not in a row
        ((0, 1, 2, 3), (2, 3), False),
    ],
)
def test_averages_of_pixels_with_their_channels_last_are_read_in_place(
    order: tuple[int, ...], sizes: tuple[int, ...], simple: bool
) -> None:
    x = torch.randn(2, 3, 4, 5)
    module = Average(order, sizes)
    assert is_simple(stock_edge_program(module, (x,))) == simple
    program = executorch.build_program({"forward": (module, (x,))})
    actual = ExecutorchRuntime(program.buffer).run("forward", [x.numpy()])[0]
    np.testing.assert_allclose(actual, module(x).numpy(), rtol=1e-5, atol=1e-6)


def test_what_is_replaced_is_put_back() -> None:
    before = xnnpack_preprocess.XNNPACKPassManager, _dataclass.get_type_hints
    with passes_in_place():
        assert xnnpack_preprocess.XNNPACKPassManager is not before[0]
        assert _dataclass.get_type_hints is not before[1]
    assert (xnnpack_preprocess.XNNPACKPassManager, _dataclass.get_type_hints) == before


def fused(a: Tensor, b: Tensor) -> Tensor:
    """Activations to fuse, one that may not be, and products with a transposed matrix."""
    total = a + b
    kept = torch.relu(total) * total
    return torch.cat([torch.relu(a @ b.T + a), nn.functional.hardtanh(kept * b), torch.relu(a - b)], 1)


class Fused(nn.Module):
    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return fused(a, b)


@pytest.mark.parametrize(
    "prepare", [lambda inputs: Fused(), lambda inputs: lower(lambda *x: (fused(*x),), inputs)]
)
def test_programs_compute_the_same_prepared_in_place_or_not(
    prepare: Callable[[tuple[Tensor, ...]], nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = (torch.randn(4, 4), torch.randn(4, 4))
    methods = {"forward": (prepare(inputs), inputs)}
    in_place = executorch.build_program(methods)
    monkeypatch.setattr(xnnpack_passes, "is_simple", lambda program: False)
    stock = executorch.build_program(methods)
    assert inspect_program(in_place.buffer) == inspect_program(stock.buffer)
    assert len(in_place.buffer) == len(stock.buffer), "another number of operators"
    arrays = [tensor.numpy() for tensor in inputs]
    ours, theirs = (
        ExecutorchRuntime(program.buffer).run("forward", arrays)[0] for program in (in_place, stock)
    )
    assert np.array_equal(ours, theirs)
    np.testing.assert_allclose(ours, fused(*inputs).numpy(), rtol=1e-4, atol=1e-5)

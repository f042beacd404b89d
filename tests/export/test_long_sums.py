"""Sums of tens of thousands of terms, as batches have them, on the ExecuTorch runtime itself."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pocketfed.export.executorch import build_program
from pocketfed.export.lowering import lower
from pocketfed.export.lowering.operators.reductions import LONG, column_sums
from pocketfed.mobile_client.runtime import ExecutorchRuntime


def statistics(x: Tensor) -> tuple[Tensor, ...]:
    """Of each channel as a batch normalisation takes them, and of everything."""
    return x.sum((0, 2, 3)), x.mean((0, 2, 3)), x.var((0, 2, 3)), x.sum()


def test_they_are_as_exact_as_pytorchs() -> None:
    """Added up one by one, 65,536 terms are off by 40 roundings and more."""
    x = 3 + torch.randn(64, 4, 32, 32, generator=torch.Generator().manual_seed(0))
    program = build_program({"statistics": (lower(statistics, (x,)), (x,))})
    found = ExecutorchRuntime(program.buffer).run("statistics", [x.numpy()])
    off = [
        float((torch.from_numpy(ours) / right - 1).abs().max())
        for ours, right in zip(found, statistics(x.double()), strict=True)
    ]
    assert max(off) < 4 * torch.finfo(torch.float32).eps


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 4 * LONG), st.integers(1, 5))
def test_no_row_is_lost_and_none_counts_twice(rows: int, columns: int) -> None:
    """Small whole numbers: their sums are exact in any order."""
    x = torch.randint(-8, 9, (rows, columns), generator=torch.Generator().manual_seed(rows)).float()
    assert torch.equal(column_sums(x), x.sum(0, keepdim=True))

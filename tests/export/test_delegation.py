"""A refusal names the operator, its module, the line that called it, and what to write instead."""

import re

import pytest
import torch
from torch import Tensor, nn

from pocketfed.core.errors import ExportError
from pocketfed.export.executorch import build_program
from pocketfed.export.inspection import inspect_program
from pocketfed.export.lowering import lower


class RunningSum(nn.Module):
    """What no fast kernel on a phone does."""

    def forward(self, x: Tensor) -> Tensor:
        """[n, m] -> [n, m]."""
        return torch.cumsum(x, 1)


def test_a_refusal_teaches() -> None:
    network = nn.ModuleDict({"trunk": nn.Sequential(nn.Linear(4, 4), RunningSum())})["trunk"]

    def step(x: Tensor) -> tuple[Tensor]:
        network.requires_grad_(False)
        return (network(x),)

    example = (torch.ones(2, 4),)
    with pytest.raises(ExportError) as refused:
        build_program({"step": (lower(step, example), example)})
    line = str(refused.value).splitlines()[1]
    assert re.fullmatch(
        r"method 'step': aten\.cumsum\.default on \[2, 4\] torch\.float32, called in module 1, "
        r"at .*test_delegation\.py:\d+ in RunningSum\.forward; multiply by a constant triangular matrix of ones",
        line,
    ), line
    assert "--allow-portable" in str(refused.value)


def test_every_caller_is_named() -> None:
    """Two blocks with the same operator and shape, and one with another shape."""
    network = nn.Sequential(RunningSum(), nn.Linear(4, 4), RunningSum(), nn.Linear(4, 3), RunningSum())
    network.requires_grad_(False)
    example = (torch.ones(2, 4),)
    with pytest.raises(ExportError) as refused:
        build_program({"step": (lower(lambda x: (network(x),), example), example)})
    wide, narrow = str(refused.value).splitlines()[1:3]
    assert re.search(r"on \[2, 4\] .*, called in module 0, at .+ and in module 2, at .+;", wide), wide
    assert re.search(r"on \[2, 3\] .*, called in module 4, at", narrow), narrow
    assert "module 0" not in narrow


def test_accepted_operators_are_reported() -> None:
    example = (torch.ones(2, 4),)
    program = build_program(
        {"step": (lower(lambda x: (RunningSum()(x),), example), example)}, allow_portable=True
    )
    assert inspect_program(program.buffer)["step"].slow == {"aten::cumsum": 1}

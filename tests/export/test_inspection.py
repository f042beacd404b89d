"""A program's parts are read back as they were put in."""

import pytest
import torch
from torch import Tensor, nn

from pocketfed.core.errors import ExportError
from pocketfed.export.executorch import build_program
from pocketfed.export.inspection import inspect_program
from pocketfed.export.xnnpack_operators import xnnpack_operators


class Mixed(nn.Module):
    """A product, which XNNPACK takes, and a sum along an axis, twice, which it leaves."""

    def forward(self, x: Tensor) -> tuple[Tensor]:
        """[4, 4] -> [4, 4]."""
        return (torch.cumsum(torch.cumsum(torch.mm(x, x), 0), 1),)


def test_delegates_kernels_and_arena() -> None:
    built = build_program({"mixed": (Mixed(), (torch.ones(4, 4),))}, allow_portable=True)
    (name, parts), *others = inspect_program(built.buffer).items()
    assert name == "mixed"
    assert not others
    assert parts.delegates == ("XnnpackBackend",)
    assert parts.kernels == {"aten::cumsum": 2}
    assert parts.slow == {"aten::cumsum": 2}
    (opened,) = inspect_program(built.buffer, open_pieces=True).values()
    assert opened.operators == {"aten::cumsum": 2, "FullyConnected": 1}
    assert parts.arena_bytes >= 2 * 4 * 4 * 4  # what a sum takes and gives at least, in float32


def test_other_bytes_are_refused() -> None:
    with pytest.raises(ExportError, match="these 11 bytes are no ExecuTorch program"):
        inspect_program(b"not a .pte!")
    with pytest.raises(ExportError, match="these 4 bytes are nothing that XNNPACK runs"):
        xnnpack_operators(b"XH00")

"""A program's parts are read back as they were put in."""

import pytest
import torch
from torch import Tensor, nn

from pocketfed.core.errors import ExportError
from pocketfed.export.executorch import Program, build_program
from pocketfed.export.inspection import inspect_program
from pocketfed.export.xnnpack_operators import xnnpack_operators


class Mixed(nn.Module):
    """A product, which XNNPACK takes, and a sum along an axis, twice, which it leaves."""

    def forward(self, x: Tensor) -> tuple[Tensor]:
        """[4, 4] -> [4, 4]."""
        return (torch.cumsum(torch.cumsum(torch.mm(x, x), 0), 1),)


@pytest.fixture(scope="module")
def built() -> Program:
    return build_program({"mixed": (Mixed(), (torch.ones(4, 4),))}, allow_portable=True)


def test_delegates_kernels_and_arena(built: Program) -> None:
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


class Kernels(nn.Module):
    """Two operators that XNNPACK leaves."""

    def forward(self, x: Tensor) -> tuple[Tensor]:
        """[4, 4] -> [4, 4]."""
        return (torch.flip(torch.cumsum(x, 0), (1,)),)


def test_whatever_byte_is_damaged_it_is_a_program_or_refused() -> None:
    """Many are offsets and indices, which then lead beyond the program or beyond one of its tables."""
    program = build_program({"kernels": (Kernels(), (torch.ones(4, 4),))}, allow_portable=True).buffer
    said = set()
    for position in range(len(program)):
        damaged = bytearray(program)
        damaged[position] = 0xFF
        try:
            inspect_program(bytes(damaged))
        except ExportError as error:
            said.add(str(error).partition(": ")[2])
    assert "it refers to entry 255 of 2" in said


def test_damaged_pieces_are_refused_without_a_word_of_flatc(
    built: Program, capfd: pytest.CaptureFixture[str]
) -> None:
    """Which would be a page of its options."""
    with pytest.raises(ExportError, match="are nothing that XNNPACK runs: flatc cannot read them"):
        inspect_program(built.buffer.replace(b"XN01", b"XN99"), open_pieces=True)
    assert capfd.readouterr() == ("", "")

"""ExecuTorch's own way, which ours is compared with."""

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.export import ExportedProgram

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # ExecuTorch's own imports use deprecated functions
    from executorch.exir import EdgeCompileConfig, to_edge


def stock_edge_program(
    module: nn.Module, inputs: tuple[Tensor, ...], preserved: Sequence[OpOverload] = ()
) -> ExportedProgram:
    """The edge program that `to_edge` makes; `preserved` operators are not decomposed."""
    config = EdgeCompileConfig(_check_ir_validity=False, preserve_ops=list(preserved))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        edge = to_edge(torch.export.export(module, inputs), compile_config=config)
    program: ExportedProgram = edge.exported_program()
    return program

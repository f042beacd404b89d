"""From graphs to an ExecuTorch program, delegated to XNNPACK.

The only module that imports ExecuTorch's exporter, besides the benchmark's stock peer. One private part of PyTorch is
touched, in `_ShallowSource`.
"""

import gc
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from unittest.mock import patch

import torch
from torch import Tensor, fx
from torch.export import ExportedProgram
from torch.fx import traceback

from pocketfed.core.errors import ExportError
from pocketfed.export.delegation import portable_nodes, refuse_slow
from pocketfed.export.dependencies import dependencies_in_bits
from pocketfed.export.edge_dialect import edge_program, idle_program, is_plain
from pocketfed.export.quiet import unwarned
from pocketfed.export.xnnpack_passes import passes_in_place

Method = tuple[torch.nn.Module, tuple[Tensor, ...]]


@dataclass(frozen=True)
class Program:
    """A `.pte` file's bytes and the names of its methods; `inspection` reads what became of them."""

    buffer: bytes
    methods: tuple[str, ...]


def build_program(methods: Mapping[str, Method], allow_portable: bool = False) -> Program:
    """Exports several methods into one program.

    Args:
        methods: For each method name, a module and example inputs of the shapes it will always be called with.
        allow_portable: Accept operators that XNNPACK does not take and run them as slow portable kernels.

    Raises:
        ExportError: An operator is left outside the delegate that is not cheap, and `allow_portable` is false;
            or the module cannot be exported at all.
    """
    with exporting():
        lowered = {name: _lower(name, module, inputs) for name, (module, inputs) in methods.items()}
        return finish(lowered, {name: module for name, (module, _) in methods.items()}, allow_portable)


def finish(
    lowered: Mapping[str, ExportedProgram],
    sources: Mapping[str, torch.nn.Module],
    allow_portable: bool,
) -> Program:
    """The program of methods of which XNNPACK has taken its parts; to be called within `exporting`.

    Args:
        lowered: by method.
        sources: the module that each method was exported from.
        allow_portable: as in `build_program`.

    Raises:
        ExportError: an operator is left outside the delegate that is not cheap, and `allow_portable` is false.
    """
    from executorch.exir import EdgeCompileConfig, EdgeProgramManager

    if not allow_portable:
        refuse_slow({name: portable_nodes(program.graph) for name, program in lowered.items()}, sources)
    edge = EdgeProgramManager(dict(lowered), compile_config=EdgeCompileConfig(_check_ir_validity=False))
    return Program(bytes(edge.to_executorch().buffer), tuple(lowered))


def _lower(name: str, module: torch.nn.Module, inputs: tuple[Tensor, ...]) -> ExportedProgram:
    """The program of a method, XNNPACK's parts delegated."""
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import EdgeCompileConfig, EdgeProgramManager, to_edge_transform_and_lower
    from executorch.exir.backend.backend_api import validation_disabled
    from executorch.exir.lowered_backend_module import get_lowered_submodules

    partitioner = XnnpackPartitioner(force_non_static_weights_for_f32_linear=True)
    config = EdgeCompileConfig(_check_ir_validity=False)
    with dependencies_in_bits(), passes_in_place(), validation_disabled():
        if is_plain(module):
            edge = EdgeProgramManager(edge_program(module), compile_config=config).to_backend(partitioner)
        else:
            exported = exported_program(name, module, inputs)
            edge = to_edge_transform_and_lower(exported, partitioner=[partitioner], compile_config=config)
    lowered: ExportedProgram = edge.exported_program()
    for _, delegate, _ in get_lowered_submodules(lowered.graph_module):
        delegate._original_exported_program = idle_program(delegate.original_module)
    return lowered


def exported_program(name: str, module: torch.nn.Module, inputs: tuple[Tensor, ...]) -> ExportedProgram:
    """The module as PyTorch exports it.

    Raises:
        ExportError: it cannot be exported; the message names the method.
    """
    try:
        with torch.no_grad():
            return torch.export.export(module, inputs, strict=False)
    except Exception as error:
        raise ExportError(f"method {name!r} cannot be exported: {error}") from error


class _ShallowSource(traceback.NodeSource):
    """Where a node comes from, without the history of every pass before: copying that takes a sixth of an export."""

    def __init__(
        self,
        node: fx.Node | None,
        pass_name: str = "",
        action: traceback.NodeSourceAction | list[traceback.NodeSourceAction] | None = None,
    ) -> None:
        super().__init__(None, pass_name, action)


@contextmanager
def exporting() -> Iterator[None]:
    """While this is open, ExecuTorch's exporter can be imported and used without warnings and without idle work."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        with unwarned(), patch.object(traceback, "NodeSource", _ShallowSource):
            yield
    finally:
        if collecting:
            gc.enable()

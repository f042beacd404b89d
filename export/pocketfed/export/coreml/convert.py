"""From an exported torch program to a Core ML program: the one place that calls the converter."""

import json
import traceback
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch._dynamo.exc import UserError as TorchUserError
from torch.export import ExportedProgram

from pocketfed.core.errors import ExportError
from pocketfed.export.delegation import module_of, operator_name, shape_of
from pocketfed.export.mil import read_package
from pocketfed.export.mil.execute import is_known, unknown_operators
from pocketfed.export.quiet import coremltools, quiet

aten = torch.ops.aten

BROKEN_PASSES = {"common::reduce_transposes"}
"""Passes of coremltools 9.0 that break correct graphs: this one exchanges the operands of z @ z^T."""

OTHERWISE = "Use other operators in the backbone, or leave Core ML out (pocketfed bundle --no-coreml)"
"""What to do about an operator that has no way into a package."""

NUMBERS = "executorch_debug_handle_mapping.json"
"""A file that the converter lays into a package, for ExecuTorch's profiler: no part of it, and its largest after weights."""


def exported(net: nn.Module, example: Tensor, sizes: Any = None) -> ExportedProgram:
    """A network of one argument, in operators that the converter has for batches of any size.

    Args:
        net: in the mode in which it is to run.
        example: of its argument.
        sizes: what may vary, as `torch.export` takes it.

    Raises:
        ExportError: PyTorch cannot export it so, as where a network takes batches of one size only.
    """
    table = torch.export.default_decompositions()
    table[aten.group_norm.default] = _group_norm
    table[aten.adaptive_avg_pool2d.default] = _adaptive_avg_pool2d
    with quiet():
        try:
            result: ExportedProgram = torch.export.export(net, (example,), dynamic_shapes=sizes)
            plain: ExportedProgram = result.run_decompositions(table)
        except (RuntimeError, ValueError, TorchUserError) as error:
            what = str(error).strip().partition("\n")[0]
            varying = " for batches of any size" if sizes else ""
            raise ExportError(
                f"PyTorch cannot export the network{varying} ({type(error).__name__}: {what}); write it so that it does "
                "not depend on the number of captures, or leave Core ML out (pocketfed bundle --no-coreml)"
            ) from error
    return plain


def convert(
    program: ExportedProgram,
    inputs: Sequence[Any],
    outputs: Sequence[str],
    half: Callable[[fx.Node], bool],
) -> Any:
    """An ML program for iOS 17 and later.

    Args:
        program: as `exported` makes it.
        inputs: types of coremltools, in the order of the function's arguments.
        outputs: names, in order; all are float32.
        half: whether a node of the program computes in half precision; what is false stays in float32.

    Returns:
        coremltools' model, to be saved by `save`.

    Raises:
        ExportError: an operator cannot be converted, or becomes one that `export.mil` does not know; the message names it
            and its module.
    """
    ct = coremltools()
    nodes = _numbered(program)
    with quiet():
        fresh_names()
        _know_alias()
        _refuse_unknown(program)
        pipeline = ct.PassPipeline.DEFAULT
        pipeline.remove_passes(BROKEN_PASSES)
        try:
            model = ct.convert(
                program,
                inputs=list(inputs),
                outputs=[ct.TensorType(name=name, dtype=np.float32) for name in outputs],
                minimum_deployment_target=ct.target.iOS17,
                compute_precision=ct.transform.FP16ComputePrecision(
                    op_selector=lambda operator: any(map(half, _made_of(operator, nodes)))
                ),
                pass_pipeline=pipeline,
                skip_model_load=True,
            )
        except (ValueError, NotImplementedError, RuntimeError, KeyError) as error:
            place = _given_up(error, nodes)
            traceback.clear_frames(error.__traceback__)  # one of them holds a temporary folder of weights
            raise ExportError(f"Core ML does not take {place}: {error}. {OTHERWISE}.") from error
    _refuse_unchecked(model, nodes)
    return model


def package_files(model: Any, name: str) -> dict[str, bytes]:
    """The files of a package, by path from the folder that holds it.

    Args:
        model: coremltools' model.
        name: of the package.

    Raises:
        ExportError: it has an operator that `export.mil` does not know: nobody here could check what it computes.
    """
    with TemporaryDirectory() as place:
        path = Path(place) / name
        save(model, path)
        unknown = unknown_operators(read_package(path))
        if unknown:
            raise ExportError(
                f"{name} would have operators that cannot be checked here: {', '.join(unknown)}. {OTHERWISE}."
            )
        return {
            Path(name, file.relative_to(path)).as_posix(): file.read_bytes()
            for file in sorted(path.rglob("*"))
            if file.is_file()
        }


def save(model: Any, path: Path) -> None:
    """Write a package to a path that does not exist; the same model gives the same bytes.

    The converter names the parts of a package at random; here the names follow from what the parts are. protobuf writes
    maps in an order that differs from process to process unless it is asked not to.
    """
    ct = coremltools()
    with quiet():
        model.save(str(path))
        for file in path.rglob("*.mlmodel"):
            specification = ct.proto.Model_pb2.Model.FromString(file.read_bytes())
            file.write_bytes(specification.SerializeToString(deterministic=True))
    (path / NUMBERS).unlink(missing_ok=True)
    manifest = json.loads((path / "Manifest.json").read_text())
    entries, root = manifest["itemInfoEntries"], manifest["rootModelIdentifier"]
    names = {
        old: str(uuid.uuid5(uuid.NAMESPACE_OID, entry["path"])).upper() for old, entry in entries.items()
    }
    manifest["itemInfoEntries"] = {names[old]: entries[old] for old in sorted(entries, key=names.__getitem__)}
    manifest["rootModelIdentifier"] = names[root]
    (path / "Manifest.json").write_text(json.dumps(manifest, indent=2, sort_keys=True) + "\n")


def fresh_names() -> None:
    """Let the converter count its names from nought: it goes on where a conversion that failed has left off."""
    from coremltools.converters.mil import Builder

    Builder.name_count.clear()


def _numbered(program: ExportedProgram) -> dict[int, fx.Node]:
    """Every node by a number, which what is made of it carries from then on.

    Names of the converted program's operators say nothing, since one node becomes several operators, most of which the
    converter names after a counter of its own.
    """
    nodes = dict(enumerate(program.graph.nodes))
    for number, node in nodes.items():
        node.meta["debug_handle"] = number
    return nodes


def _made_of(operator: Any, nodes: Mapping[int, fx.Node]) -> list[fx.Node]:
    """What an operator of the converted program was made of; nothing if a pass made it of nothing."""
    from coremltools.converters.mil.mil.scope import ScopeSource

    numbers = operator.scopes.get(ScopeSource.EXIR_DEBUG_HANDLE) or []
    return [nodes[number] for number in numbers if number is not None]


def _given_up(error: BaseException, nodes: Mapping[int, fx.Node]) -> str:
    """The operator that the converter was at when it gave up, and its module: only its own frames know."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        if frame.f_code.co_name == "convert_single_node":
            return _described(nodes[frame.f_locals["node"].meta["debug_handle"]])
    return "this network"


def _refuse_unchecked(model: Any, nodes: Mapping[int, fx.Node]) -> None:
    """Nothing, if `export.mil` knows every operator of a converted network.

    Raises:
        ExportError: with every other operator, and what it was made of.
    """
    unknown = [
        f"{operator.op_type}, made of {' and '.join(map(_described, _made_of(operator, nodes))) or 'no operator'}"
        for function in model._mil_program.functions.values()
        for operator in function.operations
        if not is_known(operator.op_type)
    ]
    if unknown:
        raise ExportError(
            "Core ML would have operators that cannot be checked here:\n"
            + "\n".join(dict.fromkeys(unknown))
            + f"\n{OTHERWISE}."
        )


def _described(node: fx.Node) -> str:
    return f"{operator_name(node)} on {shape_of(node)}{module_of(node)}"


def _know_alias() -> None:
    """Teach the converter `aten.alias`, which is the tensor itself."""
    from coremltools.converters.mil import Builder, register_torch_op
    from coremltools.converters.mil.frontend.torch.ops import _get_inputs

    def alias(context: Any, node: Any) -> None:
        context.add(Builder.identity(x=_get_inputs(context, node, expected=1)[0], name=node.name))

    register_torch_op(alias, override=True)


def _refuse_unknown(program: ExportedProgram) -> None:
    """Nothing, if the converter knows every operator.

    Raises:
        ExportError: with every other operator, its shape and its module.
    """
    from coremltools.converters.mil.frontend.torch import is_torch_fx_node_supported

    unknown = [
        _described(node)
        for node in program.graph.nodes
        if isinstance(node.target, torch._ops.OpOverload) and not is_torch_fx_node_supported(node)
    ]
    if unknown:
        raise ExportError("Core ML does not take:\n" + "\n".join(dict.fromkeys(unknown)) + f"\n{OTHERWISE}.")


def _adaptive_avg_pool2d(x: Tensor, size: Sequence[int]) -> Tensor:
    """[n, c, h, w] -> [n, c, *size]; PyTorch's own form writes strides, which no converter takes."""
    if list(size) == [1, 1]:
        return x.mean((2, 3), keepdim=True)
    pooled: Tensor = aten._adaptive_avg_pool2d(x, size)
    return pooled


def _group_norm(
    x: Tensor,
    groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    cudnn_enabled: bool = True,
) -> Tensor:
    """In plain operators: the converter's own form needs to know the size of the batch."""
    grouped = x.reshape(x.shape[0], groups, -1)
    centred = grouped - grouped.mean(-1, keepdim=True)
    normal = (centred * torch.rsqrt((centred * centred).mean(-1, keepdim=True) + eps)).reshape(x.shape)
    shape = [1, -1] + [1] * (x.dim() - 2)
    if weight is not None:
        normal = normal * weight.reshape(shape)
    return normal if bias is None else normal + bias.reshape(shape)

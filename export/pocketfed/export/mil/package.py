"""Reading a saved `.mlpackage`: its manifest, the protobuf of the model, and the weights beside it."""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from pocketfed.core.errors import BundleError
from pocketfed.core.parsing import parse_json
from pocketfed.export.quiet import coremltools

SENTINEL = 0xDEADBEEF
METADATA = struct.Struct("<IIQQQ")
"""Sentinel, data type, size in bytes, offset of the data, bits of padding."""

DTYPES: dict[str, Any] = {
    "FLOAT16": np.float16,
    "FLOAT32": np.float32,
    "FLOAT64": np.float64,
    "INT8": np.int8,
    "UINT8": np.uint8,
    "INT16": np.int16,
    "UINT16": np.uint16,
    "INT32": np.int32,
    "UINT32": np.uint32,
    "INT64": np.int64,
    "BOOL": np.bool_,
}
"""Whole-byte data types of MIL."""

BITS = {"INT4": 4, "UINT6": 6, "UINT4": 4, "UINT3": 3, "UINT2": 2, "UINT1": 1}
"""Packed data types of MIL, and how many bits a value takes."""


@dataclass(frozen=True)
class Program:
    """A program as it was saved.

    Attributes:
        path: of the package.
        model: the whole protobuf, with the description of inputs and outputs.
        function: the one that is run.
        block: its operations, for the opset that it was built for.
        weights: folder of the weight files.
    """

    path: Path
    model: Any
    function: Any
    block: Any
    weights: Path

    @cached_property
    def spent(self) -> Sequence[Sequence[str]]:
        """For each operation the names of values that nothing behind it needs; outputs are never among them.

        With all its values a gradient would take many times the memory of its weights.
        """
        seen = set(self.block.outputs)
        spent: list[list[str]] = []
        for operation in reversed(self.block.operations):
            names = [
                binding.name
                for argument in operation.inputs.values()
                for binding in argument.arguments
                if binding.WhichOneof("binding") == "name"
            ]
            names += [output.name for output in operation.outputs]
            last = [name for name in dict.fromkeys(names) if name not in seen]
            seen.update(last)
            spent.append(last)
        return spent[::-1]


def read_package(path: Path, function: str = "main") -> Program:
    """Read a package.

    Args:
        path: of the `.mlpackage` folder.
        function: the one to run.

    Raises:
        BundleError: it is no package with an ML program, or has no such function.
    """
    try:
        manifest = parse_json((path / "Manifest.json").read_text())
        entry = manifest["itemInfoEntries"][manifest["rootModelIdentifier"]]
        file = path / "Data" / _inside(entry["path"])
        content = file.read_bytes()
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BundleError(f"{path} is no Core ML package ({error!r}); build the bundle anew") from error
    model = coremltools().proto.Model_pb2.Model()
    try:
        model.ParseFromString(content)
    except DecodeError as error:
        raise BundleError(f"{file} is damaged ({error}); build the bundle anew") from error
    kind = model.WhichOneof("Type")
    if kind != "mlProgram" or function not in model.mlProgram.functions:
        known = ", ".join(sorted(model.mlProgram.functions)) if kind == "mlProgram" else f"it is a {kind}"
        raise BundleError(
            f"{path} has no ML program with a function named {function!r} ({known}); build the bundle anew"
        )
    chosen = model.mlProgram.functions[function]
    return Program(path, model, chosen, chosen.block_specializations[chosen.opset], file.parent)


def dtype_of(tensor_type: Any) -> str:
    """The name of a tensor type's data type, such as `FLOAT16`."""
    return str(coremltools().proto.MIL_pb2.DataType.Name(tensor_type.dataType))


def shape_of(tensor_type: Any) -> tuple[int, ...]:
    """The declared shape of a tensor type; -1 where it is not constant."""
    return tuple(
        int(part.constant.size) if part.WhichOneof("dimension") == "constant" else -1
        for part in tensor_type.dimensions
    )


def read_blob(program: Program, name: str, offset: int, dtype: str, shape: tuple[int, ...]) -> NDArray[Any]:
    """A tensor from a weight file.

    Args:
        program: that it belongs to.
        name: of the file as the program gives it, beginning with `@model_path/`.
        offset: of the tensor's metadata in the file, bytes.
        dtype: a key of `DTYPES` or `BITS`.
        shape: of the tensor.

    Raises:
        BundleError: there is no such tensor in the file.
    """
    file = program.weights / _inside(name.removeprefix("@model_path/"))
    try:
        with file.open("rb") as stream:
            stream.seek(offset)
            sentinel, _, size, start, _ = METADATA.unpack(stream.read(METADATA.size))
            stream.seek(start)
            content = stream.read(size)
    except (OSError, struct.error) as error:
        raise BundleError(f"{file} cannot be read at {offset} ({error}); build the bundle anew") from error
    if sentinel != SENTINEL:
        raise BundleError(f"{file} has no tensor at {offset}; build the bundle anew")
    return from_bytes(content, dtype, shape)


def from_bytes(content: bytes, dtype: str, shape: tuple[int, ...]) -> NDArray[Any]:
    """Values as MIL lays them out: little-endian, several in a byte where the type is narrower, lowest bits first.

    Raises:
        BundleError: there are not as many bytes as the shape needs.
    """
    count = int(np.prod(shape, dtype=np.int64))
    if dtype in DTYPES:
        values = np.frombuffer(content, DTYPES[dtype])
    elif dtype in BITS:
        values = _unpacked(content, BITS[dtype], count)
        if dtype.startswith("INT"):
            values = np.where(values >= 1 << (BITS[dtype] - 1), values - (1 << BITS[dtype]), values)
    else:
        raise BundleError(f"tensors of type {dtype} are not known here")
    if values.size != count:
        raise BundleError(f"a tensor has {values.size} values, {count} are declared; build the bundle anew")
    return values.reshape(shape)


def _unpacked(content: bytes, bits: int, count: int) -> NDArray[Any]:
    every = np.unpackbits(np.frombuffer(content, np.uint8), bitorder="little")
    usable = every[: count * bits]
    if usable.size != count * bits:
        return np.zeros(0, np.int16)
    digits = usable.reshape(count, bits).astype(np.int16) << np.arange(bits, dtype=np.int16)
    values: NDArray[np.int16] = digits.sum(1, dtype=np.int16)
    return values


def _inside(name: str) -> PurePosixPath:
    """A relative path that stays where it is.

    Raises:
        ValueError: it would lead elsewhere.
    """
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise ValueError(f"{name!r} leads out of the package")
    return path

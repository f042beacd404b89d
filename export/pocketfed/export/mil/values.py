"""Constants of a program as torch tensors, strings and tuples."""

from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pocketfed.core.errors import ProgramError
from pocketfed.export.mil.package import DTYPES, Program, dtype_of, from_bytes, read_blob, shape_of

Value: TypeAlias = Any
"""A tensor, a string, a tuple of values, or the name of a state."""

WIDER = {"UINT16": np.int32, "UINT32": np.int64}
"""Types that torch cannot compute with, and what holds their values."""

IMMEDIATE = {
    "floats": np.float32,
    "ints": np.int32,
    "bools": np.bool_,
    "longInts": np.int64,
    "doubles": np.float64,
}
"""Fields of a tensor that is written into the program itself, by what they hold."""


def read_value(program: Program, value: Any) -> Value:
    """The value that a protobuf `Value` holds.

    Raises:
        BundleError: the weight file does not have it.
        ProgramError: it is of a kind that is not known here.
    """
    kind = value.type.WhichOneof("type")
    source = value.WhichOneof("value")
    if kind == "tensorType":
        dtype, shape = dtype_of(value.type.tensorType), shape_of(value.type.tensorType)
        if source == "blobFileValue":
            blob = value.blobFileValue
            return as_tensor(read_blob(program, blob.fileName, blob.offset, dtype, shape), dtype)
        return _immediate(value.immediateValue.tensor, dtype, shape)
    if kind in ("tupleType", "listType") and source == "immediateValue":
        holder = value.immediateValue
        inner = holder.tuple if holder.WhichOneof("value") == "tuple" else holder.list
        return tuple(read_value(program, part) for part in inner.values)
    raise ProgramError(f"a value of the kind {kind} is not known here")


def as_tensor(values: NDArray[Any], dtype: str) -> Tensor:
    """A tensor that owns its memory; what is stored in half precision comes as float32, with the same values."""
    wanted = np.float32 if dtype == "FLOAT16" else WIDER.get(dtype, values.dtype)
    return torch.from_numpy(np.array(values, dtype=wanted))


def _immediate(tensor: Any, dtype: str, shape: tuple[int, ...]) -> Value:
    field = tensor.WhichOneof("value")
    if field == "strings":
        words = tuple(tensor.strings.values)
        return words[0] if not shape else words
    if field == "bytes":
        return as_tensor(from_bytes(tensor.bytes.values, dtype, shape), dtype)
    if field not in IMMEDIATE or dtype not in DTYPES:
        raise ProgramError(f"a constant of the kind {field} is not known here")
    values: NDArray[Any] = np.array(getattr(tensor, field).values, dtype=IMMEDIATE[field])
    return as_tensor(values.astype(DTYPES[dtype]).reshape(shape), dtype)

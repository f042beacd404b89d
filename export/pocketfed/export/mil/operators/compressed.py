"""Weights that are stored in fewer bits, and activations that are quantised."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pocketfed.export.mil.operators.arguments import integers

RANGES = {"int8": (-128, 127), "uint8": (0, 255)}


def affine_dequantize(quantized_data: Tensor, zero_point: Tensor, scale: Tensor, axis: Tensor) -> Tensor:
    """(q - zero) scale, with one scale for all or one for each channel of an axis."""
    q = quantized_data.float()
    return (q - _along(zero_point, q, int(axis))) * _along(scale, q, int(axis))


def blockwise_shift_scale(data: Tensor, scale: Tensor, offset: Tensor | None = None) -> Tensor:
    """(q - offset) scale, with one scale for each block; blocks divide every axis evenly."""
    q = data.float()
    shift = 0.0 if offset is None else _repeated(offset.float(), q)
    return (q - shift) * _repeated(scale.float(), q)


def lut_to_dense(
    indices: Tensor, lut: Tensor, shape: Tensor | None = None, vector_axis: Tensor | None = None
) -> Tensor:
    """Values from a table: one for all, with indices packed into bytes, or one for each block."""
    if shape is not None:
        sizes, bits = integers(shape), lut.numel().bit_length() - 1
        if lut.numel() != 1 << bits:
            raise ValueError(f"a table of {lut.numel()} is none of bits")
        return lut[torch.from_numpy(_unpacked(indices, bits, int(np.prod(sizes))))].reshape(sizes)
    rank = indices.dim()
    if lut.shape[rank + 1] != 1:
        raise ValueError("tables of vectors are not known here")
    table = lut[..., 0]
    for axis in range(rank):
        table = table.repeat_interleave(indices.shape[axis] // lut.shape[axis], axis)
    return torch.gather(table, rank, indices.long().unsqueeze(-1)).squeeze(-1)


def sparse_to_dense(nonzero_data: Tensor, mask: Tensor, shape: Tensor | None = None) -> Tensor:
    """Values where a mask of bits is set, zero elsewhere."""
    if shape is None:
        where = mask.bool()
    else:
        sizes = integers(shape)
        where = torch.from_numpy(_unpacked(mask, 1, int(np.prod(sizes)))).bool().reshape(sizes)
    if nonzero_data.numel() != (count := int(where.sum())):
        raise ValueError(f"the mask has {count} places for {nonzero_data.numel()} values")
    dense = torch.zeros(where.shape)
    dense[where] = nonzero_data.float()
    return dense


def constexpr_cast(source_val: Tensor, output_dtype: str) -> Tensor:
    """Stored in half precision."""
    return source_val.float()


def quantize(
    input: Tensor,
    scale: Tensor,
    zero_point: Tensor | None = None,
    axis: Tensor | None = None,
    output_dtype: str = "int8",
) -> Tensor:
    """To the nearest whole number of scales, within the type's range."""
    at = 0 if axis is None else int(axis)
    zero = 0.0 if zero_point is None else _along(zero_point, input, at)
    low, high = RANGES[output_dtype]
    return torch.clamp(torch.round(input / _along(scale, input, at)) + zero, low, high)


def dequantize(
    input: Tensor,
    scale: Tensor,
    zero_point: Tensor | None = None,
    axis: Tensor | None = None,
) -> Tensor:
    """The inverse of `quantize`, but for rounding."""
    at = 0 if axis is None else int(axis)
    zero = 0.0 if zero_point is None else _along(zero_point, input, at)
    return (input.float() - zero) * _along(scale, input, at)


def _along(values: Tensor, like: Tensor, axis: int) -> Tensor:
    """One value, or one for each position of an axis, so that it broadcasts."""
    shape = [1] * like.dim()
    if values.numel() > 1:
        shape[axis] = -1
    return values.float().reshape(shape)


def _repeated(values: Tensor, like: Tensor) -> Tensor:
    for axis in range(like.dim()):
        values = values.repeat_interleave(like.shape[axis] // values.shape[axis], axis)
    return values


def _unpacked(packed: Tensor, bits: int, count: int) -> Any:
    every = np.unpackbits(packed.numpy().astype(np.uint8), bitorder="little")[: count * bits]
    return (every.reshape(count, bits).astype(np.int64) << np.arange(bits)).sum(1)


OPERATORS: dict[str, Callable[..., Any]] = {
    "constexpr_affine_dequantize": affine_dequantize,
    "constexpr_blockwise_shift_scale": blockwise_shift_scale,
    "constexpr_cast": constexpr_cast,
    "constexpr_lut_to_dense": lut_to_dense,
    "constexpr_sparse_to_dense": sparse_to_dense,
    "dequantize": dequantize,
    "quantize": quantize,
}

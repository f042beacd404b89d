"""Products of matrices."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from pocketfed.export.mil.operators.arguments import several


def matmul(
    x: Tensor, y: Tensor, transpose_x: Tensor | bool = False, transpose_y: Tensor | bool = False
) -> Tensor:
    """The product over the last two axes, with broadcasting of the others."""
    left = x.transpose(-1, -2) if bool(transpose_x) else x
    right = y.transpose(-1, -2) if bool(transpose_y) else y
    return left @ right


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x times the transposed weight, plus bias."""
    return functional.linear(x, weight, bias)


def einsum(values: Any, equation: str) -> Tensor:
    """As NumPy's."""
    return torch.einsum(equation, *several(values))


def attention(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None) -> Tensor:
    """Softmax of scaled products of queries and keys, times values."""
    return functional.scaled_dot_product_attention(query, key, value, attn_mask)


OPERATORS: dict[str, Callable[..., Any]] = {
    "einsum": einsum,
    "linear": linear,
    "matmul": matmul,
    "scaled_dot_product_attention": attention,
}

"""The table of operators that are known. Each is a function of torch tensors, named and with arguments as MIL's are.

Integers, flags and lists come as tensors, since that is what programs hold; strings come as strings. What MIL calls
an optional argument has its default here.
"""

from collections.abc import Callable
from typing import Any

from pocketfed.export.mil.operators import (
    compressed,
    convolution,
    elementwise,
    indexing,
    matrices,
    normalisation,
    pooling,
    reductions,
    shapes,
)

GROUPS = (
    compressed, convolution, elementwise, indexing, matrices, normalisation, pooling, reductions, shapes,
)  # fmt: skip
"""Modules that each have a table of operators of one kind, as their docstrings say."""

OPERATORS: dict[str, Callable[..., Any]] = {
    name: function for group in GROUPS for name, function in group.OPERATORS.items()
}

__all__ = ["GROUPS", "OPERATORS"]

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

OPERATORS: dict[str, Callable[..., Any]] = {
    **elementwise.OPERATORS,
    **reductions.OPERATORS,
    **shapes.OPERATORS,
    **indexing.OPERATORS,
    **matrices.OPERATORS,
    **convolution.OPERATORS,
    **pooling.OPERATORS,
    **normalisation.OPERATORS,
    **compressed.OPERATORS,
}

__all__ = ["OPERATORS"]

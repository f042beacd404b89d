"""Leaving out those of XNNPACK's graph passes that a graph has nothing for.

ExecuTorch runs seventeen passes over every delegated graph, and each traces all of it again. A lowered step has a
thousand nodes and no convolution, norm or quantisation, so most of that is waiting. They are left out only if
no operator that they are about occurs. Private to ExecuTorch; tests/export/test_xnnpack_passes.py says when it changed.
"""

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

ABOUT = (
    "convolution", "pool2d", "max.dim", "upsample", "prelu", "mean", "batch_norm", "scaled_dot_product", "quantize",
)  # fmt: skip
"""Parts of the names of the operators that the passes below are about."""

OPTIONAL = frozenset({
    "ConvertToUpsampleBilinear2d", "ConvertToSDPAPass", "FuseBatchNormPass", "DecomposeBatchNorm",
    "PropagateCustomMetaPass", "InsertPadQDQPass", "Conv1dUnsqueezePass", "PReLUReshapePass",
    "ChannelsLastTaggedReshapePass", "RemoveRedundantCopyPass", "RemoveGetItemPass",
})  # fmt: skip
"""Passes that do nothing to a graph in which no such operator occurs."""


def needed(passes: Sequence[type], operators: Iterable[str]) -> list[type]:
    """The passes, in order; without the optional ones if no operator (names like `aten.mm.default`) is theirs.

    All or none, because the passes lean on one another.
    """
    if any(part in name for part in ABOUT for name in operators):
        return list(passes)
    return [one for one in passes if one.__name__ not in OPTIONAL]


@contextmanager
def only_needed_passes(operators: Iterable[str]) -> Iterator[None]:
    """While this is open, XNNPACK's preprocessing runs only what graphs of these operators need."""
    from executorch.backends.xnnpack import xnnpack_preprocess

    stock = xnnpack_preprocess.XNNPACKPassManager
    manager = functools.partial(_manager, stock, tuple(operators))
    with patch.object(xnnpack_preprocess, "XNNPACKPassManager", manager):
        yield


def _manager(stock: Callable[..., Any], operators: tuple[str, ...], program: Any, passes: Any = None) -> Any:
    manager = stock(program, passes)
    manager.passes = needed(manager.passes, operators)
    return manager

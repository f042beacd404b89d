"""Leaving out those of XNNPACK's graph passes that a graph has nothing for.

ExecuTorch runs seventeen passes over every delegated graph, and each traces all of it again. A lowered step has a
thousand nodes and no convolution, norm or quantisation, so most of that is waiting. A pass is left out only if no
operator that it is about occurs. Private to ExecuTorch; tests/export/test_xnnpack_passes.py says when it changed.
"""

import functools
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

_SPATIAL = ("convolution", "pool2d", "upsample", "prelu", "mean", "batch_norm")

ABOUT = {
    "ConvertToUpsampleBilinear2d": ("upsample",),
    "ConvertToSDPAPass": ("scaled_dot_product",),
    "FuseBatchNormPass": ("batch_norm",),
    "DecomposeBatchNorm": ("batch_norm",),
    "PropagateCustomMetaPass": ("quantize",),
    "InsertPadQDQPass": ("quantize",),
    "Conv1dUnsqueezePass": ("convolution",),
    "PReLUReshapePass": ("prelu",),
    "ChannelsLastTaggedReshapePass": _SPATIAL,
    "RemoveRedundantCopyPass": _SPATIAL,  # removes what the pass before it has put in
    "RemoveGetItemPass": ("max_pool2d", "max.dim"),
}
"""Parts of the names of the operators that each pass is about; a pass that is not listed always runs."""


def needed(passes: Iterable[type], operators: Iterable[str]) -> list[type]:
    """The passes, in order, without those that none of the operators (names like `aten.mm.default`) needs."""
    names = list(operators)
    return [
        one
        for one in passes
        if one.__name__ not in ABOUT or any(part in name for part in ABOUT[one.__name__] for name in names)
    ]


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

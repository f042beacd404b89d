"""A compiler from a learning step to a graph of matrix products that XNNPACK runs with run-time weights.

    trace ──► canonicalise ──► defer_permutes ──► a GraphModule for `executorch.build_program`

`trace` runs the whole step (forward, backward, update) once and records ATen operators, with convolutions,
norms and reductions already written as products (operators/), and with the layers that treat images one by one
going through the batch in pieces (graph/pieces.py). `canonicalise` folds constants and leaves few
kinds of operators; `defer_permutes` makes the permutations cancel.
"""

import torch
from torch import Tensor

from pocketfed.export.lowering.graph.canonical import canonicalise
from pocketfed.export.lowering.graph.layout import defer_permutes
from pocketfed.export.lowering.options import Passes
from pocketfed.export.lowering.trace import Step, trace

__all__ = ["Passes", "lower"]

_ALL = Passes()


def lower(step: Step, example_inputs: tuple[Tensor, ...], passes: Passes = _ALL) -> torch.fx.GraphModule:
    """The step as a graph of matrix products, elementwise operators and moves of memory.

    Args:
        step: A pure function of tensors that returns a tuple of tensors. It may call `torch.autograd.grad`.
        example_inputs: Tensors of the shapes and types that the step will always be called with.
        passes: Which rewrites to use.

    Returns:
        A module with the step's signature. It runs anywhere; `executorch.build_program` turns it into a program.
    """
    return defer_permutes(
        canonicalise(trace(step, example_inputs, passes), passes.common_subexpressions), passes
    )

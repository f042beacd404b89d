"""From a Python learning step to a graph of ATen operators."""

from collections.abc import Callable

import torch
from torch import Tensor, fx
from torch.fx.experimental.proxy_tensor import make_fx

from pocketfed.export.lowering.operators.table import decompositions
from pocketfed.export.lowering.options import Passes

Step = Callable[..., tuple[Tensor, ...]]


def trace(step: Step, example_inputs: tuple[Tensor, ...], passes: Passes) -> fx.GraphModule:
    """Runs the step on its example inputs, backward pass included, and records what it computes."""
    # Tracing tells inputs apart by identity: two inputs that are one tensor would become one input.
    inputs = tuple(torch.empty_like(example).copy_(example) for example in example_inputs)
    tracer = make_fx(step, decomposition_table=decompositions(passes), tracing_mode="fake", _allow_non_fake_inputs=True)
    return tracer(*inputs)

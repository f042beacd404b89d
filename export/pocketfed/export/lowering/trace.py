"""From a Python learning step to a graph of ATen operators."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch._ops import OpOverload
from torch._subclasses.fake_tensor import FakeTensor
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves

from pocketfed.core.errors import ExportError
from pocketfed.export.lowering.operators.table import decompositions
from pocketfed.export.lowering.options import Passes

Step = Callable[..., tuple[Tensor, ...]]


def trace(step: Step, example_inputs: tuple[Tensor, ...], passes: Passes) -> fx.GraphModule:
    """Runs the step once, backward pass included, and records what it does to its inputs.

    Raises:
        ExportError: what the step does depends on the values of its inputs, not only on their shapes.
    """

    def recorded(*inputs: Tensor) -> tuple[Tensor, ...]:
        with _EagerConstants():
            return step(*inputs)

    pure = torch.func.functionalize(recorded, remove="mutations")
    # Tracing tells inputs apart by identity: two inputs that are one tensor would become one input.
    inputs = tuple(torch.empty_like(example).copy_(example) for example in example_inputs)
    tracer = make_fx(pure, decompositions(passes), tracing_mode="fake", _allow_non_fake_inputs=True)
    try:
        return tracer(*inputs)
    except torch.fx.experimental.symbolic_shapes.GuardOnDataDependentSymNode as error:
        raise ExportError(
            f"the step looks at the value of a tensor that depends on its inputs ({error.cond}); "
            "compute with tensors throughout, without .item(), if or bool() on them."
        ) from error


class _EagerConstants(TorchDispatchMode):
    """Computes whatever does not depend on the inputs (which are fake tensors here) at once, for good."""

    def __torch_dispatch__(
        self,
        func: OpOverload,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        named = dict(kwargs or {})
        random = torch.Tag.nondeterministic_seeded in func.tags
        if random or any(isinstance(leaf, FakeTensor) for leaf in tree_leaves((args, named))):
            return func(*args, **named)
        with _disable_current_modes():
            return func(*args, **named)

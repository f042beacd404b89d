"""From a Python learning step to a graph of ATen operators."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._ops import OpOverload
from torch._subclasses.fake_tensor import FakeTensor
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode
from torch.fx.traceback import preserve_node_meta, set_stack_trace
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves

from pocketfed.core.errors import ExportError
from pocketfed.export.lowering.graph.pieces import split_batch
from pocketfed.export.lowering.operators.table import decompositions
from pocketfed.export.lowering.options import Passes

aten = torch.ops.aten

Step = Callable[..., tuple[Tensor, ...]]


def trace(step: Step, example_inputs: tuple[Tensor, ...], passes: Passes) -> fx.GraphModule:
    """Runs the step, backward pass included, and records what it does to its inputs.

    Recorded three times: as autograd calls it; with writes in place made pure, of which the formulas of autograd
    have some; and, the batch in pieces, with our decompositions in place of PyTorch's operators.

    Raises:
        ExportError: what the step does depends on the values of its inputs, not only on their shapes.
    """
    with preserve_node_meta():
        called = _record(step, example_inputs, _HONEST, note_callers=True)
        pure = _record(
            torch.func.functionalize(fx.Interpreter(called).run, remove="mutations"), example_inputs, {}
        )
        _allow_any_strides(pure)
        pure = split_batch(pure) if passes.batch_pieces else pure
        return _record(fx.Interpreter(pure).run, example_inputs, decompositions(passes))


def _batch_norm(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
) -> Any:
    """The operator that says that it writes running statistics: `native_batch_norm` does so in secret."""
    if not training:
        return NotImplemented  # nothing is written: recorded as it is
    settings = (training, momentum, eps)
    if running_mean is None or running_var is None:
        return aten._native_batch_norm_legit.no_stats(x, weight, bias, *settings)
    return aten._native_batch_norm_legit.default(x, weight, bias, running_mean, running_var, *settings)


_HONEST: Mapping[OpOverload, Callable[..., Any]] = {aten.native_batch_norm.default: _batch_norm}


def _allow_any_strides(module: fx.GraphModule) -> None:
    """Views become reshapes: our operators return other strides than PyTorch's, which a view may not bear."""
    for node in module.graph.nodes:
        if node.target in (aten.view.default, aten._unsafe_view.default):
            node.target = aten.reshape.default
    module.recompile()


def _record(
    function: Step,
    example_inputs: tuple[Tensor, ...],
    table: Mapping[OpOverload, Callable[..., Any]],
    note_callers: bool = False,
) -> fx.GraphModule:
    def constants_first(*inputs: Tensor) -> tuple[Tensor, ...]:
        with _EagerConstants(note_callers):
            return function(*inputs)

    # Tracing tells inputs apart by identity: two inputs that are one tensor would become one input.
    inputs = [torch.empty_like(example).copy_(example) for example in example_inputs]
    tracer = make_fx(constants_first, dict(table), tracing_mode="fake", _allow_non_fake_inputs=True)
    try:
        return tracer(*inputs)
    except GuardOnDataDependentSymNode as error:
        raise ExportError(
            "the step looks at the value of a tensor that depends on its inputs; "
            "compute with tensors throughout, without .item(), if or bool() on them."
        ) from error


class _EagerConstants(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Computes whatever does not depend on the inputs (which are fake tensors here) at once, for good.

    With `note_callers`, every other operator's node keeps the line of Python that called it.
    """

    def __init__(self, note_callers: bool) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._note_callers = note_callers

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
            if self._note_callers:
                set_stack_trace([_caller()])
            return func(*args, **named)
        with _disable_current_modes():
            return func(*args, **named)


def _caller() -> str:
    """`in module a.b, at file:line in function`: the module, and the innermost code that is not PyTorch's nor this."""
    place, modules = "", list[nn.Module]()  # modules from the innermost outwards
    frame = inspect.currentframe()
    while frame is not None:
        name = frame.f_globals.get("__name__", "")
        if not place and name != __name__ and name.partition(".")[0] != "torch":
            place = f"at {frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_qualname}"
        owner = frame.f_locals.get("self")
        if isinstance(owner, nn.Module) and not (modules and modules[-1] is owner):
            modules.append(owner)
        frame = frame.f_back
    path = [_name_within(outer, inner) for inner, outer in pairwise(modules)]
    return f"in module {'.'.join(reversed(path))}, {place}" if path else place


def _name_within(outer: nn.Module, inner: nn.Module) -> str:
    return next((name for name, module in outer.named_modules() if module is inner), type(inner).__name__)

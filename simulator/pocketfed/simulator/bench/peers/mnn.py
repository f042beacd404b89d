"""MNN: its expressions, its gradients, its SGD. As in its own examples, each step builds the expressions anew.

The operators are taken from `MNN.expr._F`: the documented wrappers around them put casts between expressions
(seen in 3.6.1), MNN has no gradient of a cast, and training through them stops without an error.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from pocketfed.core.errors import PeerError
from pocketfed.simulator.bench.peers.forward_graph import attributes_of, forward_graph, interpret
from pocketfed.simulator.bench.peers.peer import Workload

aten = torch.ops.aten


class MnnTrainer:
    """A module that owns the weights, and MNN's optimiser."""

    def __init__(self, workload: Workload) -> None:
        import MNN.expr
        import MNN.nn
        import MNN.optim

        MNN.expr.lazy_eval(True)  # otherwise values are kept and expressions, which have gradients, are not
        MNN.expr.set_thread_number(workload.threads)
        self._graph = forward_graph(workload.module, workload.views)
        self._attributes = {name: _constant(tensor) for name, tensor in attributes_of(self._graph).items()}
        self._views = _constant(workload.views)
        self._module = MNN.nn.Module()
        for name, _ in self._graph.named_parameters():
            if name in self._attributes:
                self._attributes[name].fix_as_trainable()
                setattr(self._module, name, self._attributes[name])
        self._module.train(True)
        self._optimiser = MNN.optim.SGD(
            self._module,
            workload.learning_rate,
            workload.momentum,
            workload.weight_decay,
            MNN.optim.Regularization_Method.L2,
        )
        self._operators = _operators()

    def step(self) -> float:
        """See `Trainer`.

        Raises:
            PeerError: MNN found no gradient of any weight.
        """
        loss = interpret(self._graph, self._views, self._attributes, self._operators, "MNN")
        before = float(np.asarray(loss.read()).item())
        if not self._optimiser.step(loss):
            raise PeerError("cannot train this network: MNN found no gradient")
        return before


def build(workload: Workload) -> MnnTrainer:
    """Copy the weights into MNN.

    Raises:
        PeerError: an operator has no translation; found at the first step.
    """
    return MnnTrainer(workload)


def _constant(tensor: torch.Tensor) -> Any:
    import MNN.expr as expressions

    return expressions.const(
        np.array(tensor.detach().numpy(), order="C"), list(tensor.shape), expressions.NCHW
    )


def _operators() -> Mapping[Any, Callable[..., Any]]:
    """For each ATen operator, the expression that computes it."""
    from MNN.expr import _F, NCHW

    def value(x: Any) -> Any:
        return _F.const([float(x)], [], NCHW) if isinstance(x, int | float) else x

    def with_numbers(operator: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
        return lambda x, y: operator(value(x), value(y))

    def clamp(x: Any, low: float | None = None, high: float | None = None) -> Any:
        x = x if low is None else _F.maximum(x, value(low))
        return x if high is None else _F.minimum(x, value(high))

    def linear(x: Any, weight: Any, bias: Any = None) -> Any:
        product = _F.matmul(x, weight, False, True)
        return product if bias is None else _F.add(product, bias)

    return {
        aten.conv2d.default: _convolution,
        aten.linear.default: linear,
        aten.mm.default: lambda x, y: _F.matmul(x, y, False, False),
        aten.permute.default: lambda x, order: _F.transpose(x, order),
        aten.view.default: lambda x, shape: _F.reshape(x, shape, NCHW),
        aten.slice.Tensor: _slice,
        aten.cat.default: _concatenate,
        aten.add.Tensor: with_numbers(_F.add),
        aten.sub.Tensor: with_numbers(_F.subtract),
        aten.mul.Tensor: with_numbers(_F.multiply),
        aten.div.Tensor: with_numbers(_F.divide),
        aten.relu.default: _relu,
        aten.sigmoid.default: _F.sigmoid,
        aten.tanh.default: _F.tanh,
        aten.erf.default: _F.erf,
        aten.exp.default: _F.exp,
        aten.log.default: _F.log,
        aten.sqrt.default: _F.sqrt,
        aten.clamp.default: clamp,
        aten.sum.dim_IntList: lambda x, dims, keep=False: _F.reduce_sum(x, dims, keep),
        aten.mean.dim: lambda x, dims, keep=False: _F.reduce_mean(x, dims, keep),
        aten.amax.default: lambda x, dims, keep=False: _F.reduce_max(x, dims, keep),
        # A copy of the value: nothing flows back.
        aten.detach.default: lambda x: _F.const(x.read(), x.shape, NCHW),
    }


def _relu(x: Any) -> Any:
    from MNN.expr import _F

    return _F.relu(x, 0.0)


def _concatenate(parts: Sequence[Any], dim: int = 0) -> Any:
    """MNN crashes in the gradient of one part."""
    from MNN.expr import _F

    return parts[0] if len(parts) == 1 else _F.concat(parts, dim)


def _slice(x: Any, dim: int, start: int, end: int) -> Any:
    """A part of a split, because MNN has a gradient of that only."""
    from MNN.expr import _F

    sizes = [start, end - start, x.shape[dim] - end]
    parts = _F.split(x, [size for size in sizes if size], dim)
    return parts[1 if start else 0]


def _convolution(
    x: Any,
    weight: Any,
    bias: Any = None,
    stride: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0),
    dilation: Sequence[int] = (1, 1),
    groups: int = 1,
) -> Any:
    """MNN convolves four channels at a time, in a format of its own; height and width come in ATen's order."""
    from MNN.expr import _F, CAFFE, NC4HW4, NCHW

    if groups not in (1, weight.shape[0]) or (groups > 1 and weight.shape[1] != 1):
        raise PeerError(
            f"cannot train this network: MNN crashes in the gradient of {groups} groups of channels"
        )
    zero = _F.const([0.0] * weight.shape[0], [weight.shape[0]], NCHW)
    blocked = _F.conv2d(
        _F.convert(x, NC4HW4),
        weight,
        zero if bias is None else bias,
        list(stride[::-1]),
        list(padding[::-1]),
        list(dilation[::-1]),
        groups,
        CAFFE,  # pad by these numbers
    )
    return _F.convert(blocked, NCHW)

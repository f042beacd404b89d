"""Comparing a lowered step with the step itself."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, fx

from pocketfed.export.lowering import Passes, lower


def with_gradients(function: Callable[..., Tensor]) -> Callable[..., tuple[Tensor, ...]]:
    """inputs -> (output, gradient of each input), for a fixed weighting of the output."""

    def step(*inputs: Tensor) -> tuple[Tensor, ...]:
        leaves = [tensor.detach().requires_grad_() for tensor in inputs]
        output = function(*leaves)
        weighting = torch.cos(torch.arange(output.numel(), dtype=torch.float32)).reshape(output.shape)
        gradients = torch.autograd.grad((output * weighting).sum(), leaves, allow_unused=True)
        return (output.detach(), *(gradient for gradient in gradients if gradient is not None))

    return step


def assert_lowers(
    step: Callable[..., tuple[Tensor, ...]],
    inputs: Sequence[Tensor],
    passes: Passes | None = None,
    tolerance: float = 1e-5,
) -> fx.GraphModule:
    """Lowers the step, compares all its outputs with eager PyTorch's, and returns the graph."""
    module = lower(step, tuple(inputs), passes or Passes())
    for actual, reference in zip(module(*inputs), step(*inputs), strict=True):
        assert actual.shape == reference.shape
        scale = float(reference.abs().max()) + 1e-6
        torch.testing.assert_close(actual / scale, reference / scale, rtol=0, atol=tolerance)
    return module


def targets(module: fx.GraphModule) -> list[str]:
    """The operators of a graph, by name, in order."""
    return [str(node.target) for node in module.graph.nodes if node.op == "call_function"]

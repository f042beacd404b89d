"""Structural re-parameterisation: what is several linear branches in training becomes one convolution for inference.

Batch normalisation by running statistics is an affine map of each channel, so a convolution W and the normalisation
(gamma, beta, mu, sigma^2, epsilon) behind it are one convolution with a bias:

    W' = W gamma / sqrt(sigma^2 + epsilon)        b' = beta - mu gamma / sqrt(sigma^2 + epsilon)

Parallel branches of this form add up, the shorter kernels zero-padded around their centre. In training mode a batch
is normalised by its own statistics, which depend on the input: there is nothing to fold then.
"""

import copy
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn import functional

from pocketfed.core.errors import ExportError


class ConvNorm(nn.Module):
    """Convolution without bias, then batch normalisation: [n, i, h, w] -> [n, o, h/stride, w/stride].

    Odd kernels, padded so that a stride of one keeps height and width.
    """

    def __init__(
        self, inputs: int, outputs: int, kernel: int | tuple[int, int], stride: int = 1, groups: int = 1
    ) -> None:
        super().__init__()
        height, width = (kernel, kernel) if isinstance(kernel, int) else kernel
        padding = (height // 2, width // 2)
        self.conv = nn.Conv2d(inputs, outputs, (height, width), stride, padding, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """[n, i, h, w] -> [n, o, h/stride, w/stride]."""
        normalised: Tensor = self.norm(self.conv(x))
        return normalised


@runtime_checkable
class Fusable(Protocol):
    """A module that knows a cheaper one with the same output in evaluation."""

    def fused(self) -> nn.Module:
        """The cheaper module, with weights of its own."""
        ...


def fuse(network: nn.Module) -> nn.Module:
    """A copy of the network with every block in its inference form; the same function up to rounding.

    Raises:
        ExportError: no block has such a form; the message says why if the network does.
        ValueError: the network, or a part of it, is in training mode.
    """
    if any(part.training for part in network.modules()):
        raise ValueError("fusing needs running statistics, so evaluation mode; call eval() first")
    if not can_fuse(network):
        reason = getattr(network, "why_not_fused", "it has no parallel linear branches")
        raise ExportError(f"{type(network).__name__} cannot be fused: {reason}; use it as it is.")
    with torch.random.fork_rng(devices=[]):  # new layers draw initial weights, which are then overwritten
        return _fused(copy.deepcopy(network)).eval()


def can_fuse(network: nn.Module) -> bool:
    """Whether any block has a cheaper form."""
    return any(isinstance(part, Fusable) for part in network.modules())


def _fused(network: nn.Module) -> nn.Module:
    if isinstance(network, Fusable):
        return network.fused()
    for name, child in network.named_children():
        setattr(network, name, _fused(child))
    return network


def scale_and_shift(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """The affine map that a normalisation is in evaluation: (gamma / sigma, beta - mu gamma / sigma), each [channels]."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight.detach() * torch.rsqrt(norm.running_var + norm.eps)
    return scale, norm.bias.detach() - norm.running_mean * scale


def folded(pair: ConvNorm) -> tuple[Tensor, Tensor]:
    """Kernel [o, i, h, w] and bias [o] of the one convolution that the pair is in evaluation."""
    scale, shift = scale_and_shift(pair.norm)
    return pair.conv.weight.detach() * scale.reshape(-1, 1, 1, 1), shift


def centred(kernel: Tensor, height: int, width: int) -> Tensor:
    """A kernel [o, i, h, w] of odd sides, zero-padded to [o, i, height, width] around its centre."""
    rows, columns = (height - kernel.shape[2]) // 2, (width - kernel.shape[3]) // 2
    return functional.pad(kernel, (columns, columns, rows, rows))


def convolution(like: nn.Conv2d, kernel: Tensor, bias: Tensor | None = None) -> nn.Conv2d:
    """A convolution with this kernel and perhaps bias, and stride and groups of another; it pads to keep the size."""
    outputs, _, height, width = kernel.shape
    made = nn.Conv2d(
        like.in_channels, outputs, (height, width), like.stride,  # type: ignore[arg-type]
        (height // 2, width // 2), groups=like.groups, bias=bias is not None, device=kernel.device, dtype=kernel.dtype,
    )  # fmt: skip
    with torch.no_grad():
        made.weight.copy_(kernel)
        if made.bias is not None and bias is not None:
            made.bias.copy_(bias)
    return made

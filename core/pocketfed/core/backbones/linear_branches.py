"""Parallel linear branches in the five forms that FedRepOpt compares (arXiv 2409.15898; RepOptimizer: Ding et al., 2023).

The branches are convolutions of several odd kernels k and, where shapes allow, the identity. With x [n, i, h, w]:

    csla    sum over k of s_k conv_k(x) + u x            s_k constants and u trainable, one number per channel
    hs      the same, s_k trainable too: what searches for the constants
    repopt  conv(x): one kernel W, which begins as the csla's sum and whose gradient is multiplied
    target  conv(x): one kernel, trained plainly
    rep     sum over k of BN_k(conv_k(x)) + BN(x)

A csla equals one kernel W = sum over k of s_k W_k, zero-padded around the centre, + u on the identity's diagonal at the
centre. It is linear in what is trained, and so are SGD, momentum and weight decay; so W moves exactly as it does under
the csla if its gradient is multiplied element by element with

    M = sum over k of s_k^2, on k's own taps, + 1 on the identity's diagonal at the centre

(1 and not u^2, because u itself is trained). `repopt` is that: the csla's training at the cost of `target`. Anything
that is not linear in gradient and weights would break it: AdamW, or clipping gradients. An optimiser has to say that it is
linear, or `learning_task` refuses it. FedAvg is linear, too: all phones have the same constants, so the federation keeps the equality.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

import torch
from torch import Tensor, nn

from pocketfed.core.backbones.folding import ConvNorm, centred, convolution, folded, scale_and_shift
from pocketfed.core.errors import ConfigError


class Form(StrEnum):
    """How branches are trained; see the module's docstring."""

    TARGET = "target"
    REPOPT = "repopt"
    CSLA = "csla"
    REP = "rep"
    HS = "hs"


@dataclass(frozen=True)
class Scales:
    """The numbers per channel of one block, float32 [outputs] each.

    Attributes:
        kernels: s_k, in the order of the kernels.
        identity: what u begins with; not used where there is no identity.
    """

    kernels: tuple[Tensor, ...]
    identity: Tensor


@dataclass(frozen=True)
class Branches:
    """What the branches of one block have in common, whatever their form.

    Attributes:
        inputs, outputs: channels.
        kernels: sides, odd, the largest first.
        stride: of all convolutions.
        groups: of all convolutions.
    """

    inputs: int
    outputs: int
    kernels: tuple[int, ...]
    stride: int = 1
    groups: int = 1

    @property
    def identity(self) -> bool:
        """Whether one branch is the identity: only where it keeps the shape."""
        return self.inputs == self.outputs and self.stride == 1

    def convolution(self, kernel: int) -> nn.Conv2d:
        """An untrained convolution without bias."""
        return nn.Conv2d(
            self.inputs, self.outputs, kernel, self.stride, kernel // 2, groups=self.groups, bias=False
        )

    def constant(self, scale: float) -> Scales:
        """The same number for all convolutions, and 1 for the identity."""
        ones = torch.ones(self.outputs)
        return Scales(tuple(ones * scale for _ in self.kernels), ones)

    def diagonal(self, values: Tensor) -> Tensor:
        """The kernel [o, i/groups, k, k] of the identity times `values` [o]; zeros where there is no identity."""
        per_group, side = self.inputs // self.groups, self.kernels[0]
        kernel = values.new_zeros(self.outputs, per_group, side, side)
        if self.identity:
            channel = torch.arange(self.outputs, device=values.device)
            kernel[channel, channel % per_group, side // 2, side // 2] = values
        return kernel

    def collapsed(self, kernels: Sequence[Tensor], scales: Scales) -> Tensor:
        """W, the one kernel [o, i/groups, k, k] that equals scaled kernels and the identity times its scale."""
        side, whole = self.kernels[0], self.diagonal(scales.identity)
        for kernel, scale in zip(kernels, scales.kernels, strict=True):
            whole = whole + centred(kernel * scale.reshape(-1, 1, 1, 1), side, side)
        return whole

    def multipliers(self, scales: Sequence[Tensor]) -> Tensor:
        """M of these s_k, what the gradient of W is multiplied with, [o, i/groups, k, k]."""
        squares = Scales(tuple(scale * scale for scale in scales), torch.ones_like(scales[0]))
        shape = (self.outputs, self.inputs // self.groups)
        return self.collapsed([scales[0].new_ones(*shape, k, k) for k in self.kernels], squares)


class Plain(nn.Module):
    """`target`: one convolution, [n, i, h, w] -> [n, o, h/stride, w/stride]."""

    def __init__(self, branches: Branches) -> None:
        super().__init__()
        self.conv = branches.convolution(branches.kernels[0])

    def forward(self, x: Tensor) -> Tensor:
        """[n, i, h, w] -> [n, o, h/stride, w/stride]."""
        out: Tensor = self.conv(x)
        return out


class KernelScales(nn.Module):
    """s_k of one block inside a network: constants are buffers, which no layout holds; searched ones are parameters."""

    def __init__(self, scales: Scales, searching: bool = False) -> None:
        super().__init__()
        self.count = len(scales.kernels)
        for i, scale in enumerate(scales.kernels):
            if searching:
                self.register_parameter(f"kernel{i}", nn.Parameter(scale.clone()))
            else:
                self.register_buffer(f"kernel{i}", scale.clone())

    def each(self) -> tuple[Tensor, ...]:
        """s_k, each [outputs]."""
        return tuple(getattr(self, f"kernel{i}") for i in range(self.count))


class Multiplied(Plain):
    """`repopt`: one convolution that begins as the `csla` of the same random numbers, and is trained like it."""

    def __init__(self, branches: Branches, scales: Scales) -> None:
        super().__init__(branches)
        kernels = [self.conv.weight, *(branches.convolution(k).weight for k in branches.kernels[1:])]
        with torch.no_grad():
            self.conv.weight.copy_(branches.collapsed(kernels, scales))
        self.branches, self.scales = branches, KernelScales(scales)

    def gradient_multipliers(self) -> dict[str, Tensor]:
        """By the name of the weight."""
        return {"conv.weight": self.branches.multipliers(self.scales.each())}


class ScaledSum(nn.Module):
    """`csla` and `hs`: [n, i, h, w] -> [n, o, h/stride, w/stride]."""

    def __init__(self, branches: Branches, scales: Scales, searching: bool) -> None:
        super().__init__()
        self.branches = branches
        self.convolutions = nn.ModuleList(branches.convolution(k) for k in branches.kernels)
        self.scales = KernelScales(scales, searching)
        if branches.identity:
            self.identity = nn.Parameter(scales.identity.clone())

    def present(self) -> Scales:
        """The scales as they are now, detached; an identity that is not there has 1."""
        kernels = tuple(scale.detach() for scale in self.scales.each())
        return Scales(
            kernels, self.identity.detach() if self.branches.identity else torch.ones_like(kernels[0])
        )

    def forward(self, x: Tensor) -> Tensor:
        """[n, i, h, w] -> [n, o, h/stride, w/stride]."""
        parts = [
            scale.reshape(1, -1, 1, 1) * part(x)
            for scale, part in zip(self.scales.each(), self.convolutions, strict=True)
        ]
        if self.branches.identity:
            parts.append(self.identity.reshape(1, -1, 1, 1) * x)
        out: Tensor = sum(parts[1:], parts[0])
        return out

    def fused(self) -> nn.Module:
        """One convolution."""
        kernels = [branch.weight.detach() for branch in self.convolutions]  # type: ignore[operator]
        whole = self.branches.collapsed(kernels, self.present())
        return convolution(self.convolutions[0], whole)  # type: ignore[arg-type]


class NormedSum(nn.Module):
    """`rep`: every branch with a batch normalisation of its own, [n, i, h, w] -> [n, o, h/stride, w/stride]."""

    def __init__(self, branches: Branches) -> None:
        super().__init__()
        self.branches = branches
        self.convolutions = nn.ModuleList(
            ConvNorm(branches.inputs, branches.outputs, k, branches.stride, branches.groups)
            for k in branches.kernels
        )
        if branches.identity:
            self.identity = nn.BatchNorm2d(branches.outputs)

    def forward(self, x: Tensor) -> Tensor:
        """[n, i, h, w] -> [n, o, h/stride, w/stride]."""
        parts = [part(x) for part in self.convolutions]
        if self.branches.identity:
            parts.append(self.identity(x))
        out: Tensor = sum(parts[1:], parts[0])
        return out

    def fused(self) -> nn.Module:
        """One convolution with a bias."""
        kernels, biases = zip(*(folded(part) for part in self.convolutions), strict=True)  # type: ignore[arg-type]
        side = self.branches.kernels[0]
        kernel, bias = sum(centred(kernel, side, side) for kernel in kernels), sum(biases)
        if self.branches.identity:
            scale, shift = scale_and_shift(self.identity)
            kernel, bias = kernel + self.branches.diagonal(scale), bias + shift
        return convolution(self.convolutions[0].conv, kernel, bias)  # type: ignore[arg-type]


def linear(branches: Branches, form: Form, scales: Scales) -> nn.Module:
    """The branches in a form; one seed gives `repopt`, `csla` and `hs` the same function to begin with."""
    if form is Form.TARGET:
        return Plain(branches)
    if form is Form.REPOPT:
        return Multiplied(branches, scales)
    if form is Form.REP:
        return NormedSum(branches)
    return ScaledSum(branches, scales, searching=form is Form.HS)


def one_for_each(blocks: Sequence[Branches], scales: Sequence[Scales]) -> None:
    """Nothing, if there are scales for every block and they fit its kernels and channels.

    Raises:
        ConfigError: they are those of another network.
    """
    wanted = [(len(block.kernels), block.outputs) for block in blocks]
    given = [(len(own.kernels), len(own.identity)) for own in scales]
    if wanted != given:
        problem = (
            f"scales of {len(given)} blocks with {_widths(given)} channels do not fit a network of {len(wanted)} blocks "
            f"with {_widths(wanted)}"
        )
        raise ConfigError([f"{problem}; search for its own with `pocketfed scales`"])


def _widths(blocks: Sequence[tuple[int, int]]) -> str:
    return ", ".join(str(channels) for _, channels in blocks)


def searched(network: nn.Module) -> Iterator[Scales]:
    """The scales of every block of an `hs` network, in order: the constants for the other forms."""
    for part in network.modules():
        if isinstance(part, ScaledSum):
            yield part.present()

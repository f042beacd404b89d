"""VAN with large separable kernel attention (Lau et al., 2023, arXiv 2309.01439; VAN: Guo et al., 2022).

    [n, 3, h, w] -> four stages: patch embedding, blocks, LayerNorm over channels -> mean over space -> [n, features]

A patch embedding is a convolution with bias and a BN: 7 x 7 of stride 4 first, then 3 x 3 of stride 2. A block is two
residual branches, each behind a BN and scaled per channel by a weight that begins at 0.01:

    x + scale * (x' + 1x1(gate(GELU(1x1(x')))))            x' = BN(x), c channels throughout
    x + scale * 1x1(GELU(DW_3x3(1x1(x'))))                 r c channels between
    gate(x) = x * 1x1(kernels(x))

The kernels of a gate are depthwise, with bias, and nothing between them. Together they reach exactly k places, k =
(2d - 1) + d (m - 1), where d is the dilation (2 below k = 23, else 3) and m = floor(k / d):

    lka           (2d-1) x (2d-1), then m x m with dilation d
    lska          1 x (2d-1), (2d-1) x 1, then 1 x m and m x 1 with dilation d: cost is linear in k
    lka-trivial   k x k
    lska-trivial  1 x k, k x 1

Our choices: no DropPath, since a step has no chance of its own; GELU in its exact form; VAN's initial values (truncated
normal 0.02 for linear maps, sqrt(2 / fan out) for convolutions) replaced by torch's; and the phone size: 24, 48, 96 and
128 channels, blocks 1, 1, 2, 1, lska with k = 11, and a first embedding of stride 2.
"""

from dataclasses import dataclass, replace
from enum import StrEnum

import torch
from torch import Tensor, nn
from torch.nn import functional


class Kernels(StrEnum):
    """What a gate's kernel is made of; see the module's docstring."""

    LKA = "lka"
    LSKA = "lska"
    LKA_TRIVIAL = "lka-trivial"
    LSKA_TRIVIAL = "lska-trivial"


def split(reach: int) -> tuple[int, int, int]:
    """Taps of the dense kernel (2d - 1), dilation d, and taps of the dilated one, for a reach of k places.

    Raises:
        ValueError: no such kernels reach exactly k.
    """
    dilation = 2 if reach < 23 else 3
    dense, dilated = 2 * dilation - 1, reach // dilation
    if dense + dilation * (dilated - 1) != reach or dilated % 2 == 0:
        raise ValueError(f"no pair of kernels reaches exactly {reach} places; choose 7, 11, 23, 35, 41 or 53")
    return dense, dilation, dilated


def kernels(channels: int, kind: Kernels, reach: int) -> nn.Sequential:
    """The depthwise convolutions of a gate: [n, channels, h, w] -> the same shape; each output sees reach x reach.

    Raises:
        ValueError: no such kernels reach exactly `reach`.
    """

    def depthwise(height: int, width: int, dilation: int = 1) -> nn.Conv2d:
        padding = (dilation * (height // 2), dilation * (width // 2))
        return nn.Conv2d(channels, channels, (height, width), 1, padding, dilation, channels)

    if kind is Kernels.LKA_TRIVIAL:
        return nn.Sequential(depthwise(reach, reach))
    if kind is Kernels.LSKA_TRIVIAL:
        return nn.Sequential(depthwise(1, reach), depthwise(reach, 1))
    dense, dilation, dilated = split(reach)
    if kind is Kernels.LKA:
        return nn.Sequential(depthwise(dense, dense), depthwise(dilated, dilated, dilation))
    near, far = (
        (depthwise(1, dense), depthwise(dense, 1)),
        (depthwise(1, dilated, dilation), depthwise(dilated, 1, dilation)),
    )
    return nn.Sequential(*near, *far)


class Gate(nn.Module):
    """x times an attention map that a large kernel makes of it: [n, c, h, w] -> [n, c, h, w]."""

    def __init__(self, channels: int, kind: Kernels, reach: int) -> None:
        super().__init__()
        self.kernels = kernels(channels, kind, reach)
        self.mix = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[n, c, h, w] -> [n, c, h, w]."""
        out: Tensor = x * self.mix(self.kernels(x))
        return out


class Attention(nn.Module):
    """x + 1x1(gate(GELU(1x1(x)))): [n, c, h, w] -> [n, c, h, w]."""

    def __init__(self, channels: int, kind: Kernels, reach: int) -> None:
        super().__init__()
        self.before = nn.Conv2d(channels, channels, 1)
        self.gate = Gate(channels, kind, reach)
        self.after = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[n, c, h, w] -> [n, c, h, w]."""
        attended: Tensor = self.after(self.gate(functional.gelu(self.before(x))))
        return x + attended


class Mlp(nn.Module):
    """1x1(GELU(DW_3x3(1x1(x)))): [n, c, h, w] -> [n, c, h, w], `hidden` channels between."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.widen = nn.Conv2d(channels, hidden, 1)
        self.near = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.narrow = nn.Conv2d(hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[n, c, h, w] -> [n, c, h, w]."""
        out: Tensor = self.narrow(functional.gelu(self.near(self.widen(x))))
        return out


class Scaled(nn.Module):
    """x + scale * branch(BN(x)): [n, c, h, w] -> [n, c, h, w]."""

    def __init__(self, channels: int, branch: nn.Module) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)
        self.branch = branch
        self.scale = nn.Parameter(torch.full((channels, 1, 1), 1e-2))

    def forward(self, x: Tensor) -> Tensor:
        """[n, c, h, w] -> [n, c, h, w]."""
        scaled: Tensor = self.scale * self.branch(self.norm(x))
        return x + scaled


def _block(channels: int, ratio: int, kind: Kernels, reach: int) -> nn.Sequential:
    attention, mlp = Attention(channels, kind, reach), Mlp(channels, ratio * channels)
    return nn.Sequential(Scaled(channels, attention), Scaled(channels, mlp))


class Stage(nn.Module):
    """Patch embedding, blocks, LayerNorm over channels: [n, i, h, w] -> [n, c, h/stride, w/stride]."""

    def __init__(self, inputs: int, channels: int, stride: int, kernel: int, blocks: nn.Sequential) -> None:
        super().__init__()
        self.embed = nn.Conv2d(inputs, channels, kernel, stride, kernel // 2)
        self.embed_norm = nn.BatchNorm2d(channels)
        self.blocks = blocks
        self.norm = nn.LayerNorm(channels, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        """[n, i, h, w] -> [n, c, h/stride, w/stride]."""
        x = self.blocks(self.embed_norm(self.embed(x)))
        out: Tensor = self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return out


@dataclass(frozen=True)
class Size:
    """Channels of each stage, how much wider its MLP is, its blocks, and the stride of the first embedding."""

    widths: tuple[int, ...]
    ratios: tuple[int, ...]
    blocks: tuple[int, ...]
    stride: int = 4


TINY = Size((32, 64, 160, 256), (8, 8, 4, 4), (3, 3, 5, 2))
SMALL = replace(TINY, widths=(64, 128, 320, 512), blocks=(2, 2, 4, 2))
BASE = replace(SMALL, blocks=(3, 3, 12, 3))
PHONE = Size((24, 48, 96, 128), (4, 4, 4, 4), (1, 1, 2, 1), stride=2)


class Van(nn.Module):
    """See the module's docstring.

    Raises:
        ValueError: no such kernels reach exactly `reach`.
    """

    def __init__(self, size: Size, kind: Kernels = Kernels.LSKA, reach: int = 23) -> None:
        super().__init__()
        stages: list[Stage] = []
        inputs = 3
        for width, ratio, count in zip(size.widths, size.ratios, size.blocks, strict=True):
            blocks = nn.Sequential(*(_block(width, ratio, kind, reach) for _ in range(count)))
            first = not stages
            stages.append(Stage(inputs, width, size.stride if first else 2, 7 if first else 3, blocks))
            inputs = width
        self.stages = nn.Sequential(*stages)
        self.features = inputs

    def forward(self, inputs: Tensor) -> Tensor:
        """[n, 3, h, w] -> [n, features]."""
        pooled: Tensor = self.stages(inputs).mean((2, 3))
        return pooled


def tiny() -> nn.Module:
    """VAN-tiny with LSKA-23: 3.8 M parameters without a classifier, 256 features."""
    return Van(TINY)


def small() -> nn.Module:
    """VAN-small with LSKA-23: 13.2 M parameters without a classifier, 512 features."""
    return Van(SMALL)


def base() -> nn.Module:
    """VAN-base with LSKA-23: 25.8 M parameters without a classifier, 512 features."""
    return Van(BASE)


def phone() -> nn.Module:
    """The phone size, LSKA-11, 128 features."""
    return Van(PHONE, Kernels.LSKA, 11)

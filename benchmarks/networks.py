"""Four small reference networks, one for each way in which a phone's CNN spends its time.

    plain       dense 3 x 3 convolutions
    dwsep       depthwise 3 x 3 and pointwise convolutions, as in MobileNet
    inception   a quarter of the channels through 3 x 3, 1 x 11 and 11 x 1 depthwise kernels, as in InceptionNeXt
    resnet16    residual blocks that begin with 16 channels, as ResNets for small images do

Load them with `--plugin benchmarks/networks.py`. All use GroupNorm; widths follow published small variants.
"""

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from pocketfed.core.backbones import register


def conv_norm(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Convolution without bias and GroupNorm in 4 groups: [n, i, h, w] -> [n, o, h/stride, w/stride]."""
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(convolution, nn.GroupNorm(4, outputs))


class Pooled(nn.Module):
    """A trunk, then the mean over space: [n, 3, h, w] -> [n, features]."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.trunk = nn.Sequential(*layers)

    def forward(self, inputs: Tensor) -> Tensor:
        """[n, 3, h, w] -> [n, features]."""
        pooled: Tensor = self.trunk(inputs).mean((2, 3))
        return pooled


class Mixer(nn.Module):
    """InceptionNeXt's block: three thin depthwise branches and the identity, then a pointwise MLP; [n, c, h, w]."""

    def __init__(self, channels: int, band: int = 11) -> None:
        super().__init__()
        thin = channels // 8
        self.widths = [channels - 3 * thin, thin, thin, thin]
        self.square = nn.Conv2d(thin, thin, 3, padding=1, groups=thin)
        self.across = nn.Conv2d(thin, thin, (1, band), padding=(0, band // 2), groups=thin)
        self.down = nn.Conv2d(thin, thin, (band, 1), padding=(band // 2, 0), groups=thin)
        self.norm = nn.GroupNorm(1, channels)
        self.widen = nn.Conv2d(channels, 4 * channels, 1)
        self.narrow = nn.Conv2d(4 * channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[n, c, h, w] -> [n, c, h, w]."""
        same, square, across, down = torch.split(x, self.widths, 1)
        mixed = self.norm(torch.cat([same, self.square(square), self.across(across), self.down(down)], 1))
        projected: Tensor = self.narrow(functional.gelu(self.widen(mixed), approximate="tanh"))
        return x + projected


class Residual(nn.Module):
    """ResNet's basic block: [n, i, h, w] -> [n, o, h/stride, w/stride]."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.first = conv_norm(inputs, outputs, 3, stride)
        self.second = conv_norm(outputs, outputs, 3)
        plain = inputs == outputs and stride == 1
        self.shortcut: nn.Module = nn.Identity() if plain else conv_norm(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        """[n, i, h, w] -> [n, o, h/stride, w/stride]."""
        return functional.relu(self.second(functional.relu(self.first(x))) + self.shortcut(x))


def plain() -> nn.Module:
    """Four dense convolutions, 32 to 128 channels."""
    widths = ((3, 32, 1), (32, 64, 2), (64, 64, 1), (64, 128, 2))
    return Pooled(*(layer for i, o, s in widths for layer in (conv_norm(i, o, 3, s), nn.ReLU())))


def dwsep() -> nn.Module:
    """A strided stem and three depthwise-separable blocks, 32 to 128 channels."""
    layers: list[nn.Module] = [conv_norm(3, 32, 3, 2), nn.ReLU()]
    for i, o, stride in ((32, 64, 1), (64, 128, 2), (128, 128, 1)):
        layers += [conv_norm(i, i, 3, stride, groups=i), nn.ReLU(), conv_norm(i, o, 1), nn.ReLU()]
    return Pooled(*layers)


def inception() -> nn.Module:
    """A patch stem, two blocks of 32 channels, two of 64."""
    stem = [nn.Conv2d(3, 32, 4, 4), nn.GroupNorm(1, 32)]
    return Pooled(*stem, Mixer(32), Mixer(32), nn.Conv2d(32, 64, 2, 2), Mixer(64), Mixer(64))


def resnet(width: int) -> nn.Module:
    """Six basic blocks in three stages of `width`, 2 and 4 times that."""
    w = width
    blocks = [(w, w, 1), (w, w, 1), (w, 2 * w, 2), (2 * w, 2 * w, 1), (2 * w, 4 * w, 2), (4 * w, 4 * w, 1)]
    return Pooled(conv_norm(3, w, 3), nn.ReLU(), *(Residual(i, o, s) for i, o, s in blocks))


register("plain", plain, features=128)
register("dwsep", dwsep, features=128)
register("inception", inception, features=64)
register("resnet16", partial(resnet, 16), features=64)

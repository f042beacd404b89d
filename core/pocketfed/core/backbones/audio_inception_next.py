"""AudioInceptionNeXt (Lau et al., 2023, arXiv 2307.07265): multi-scale separable kernels over time and frequency.

    [n, i, b, t] -> stem 5 (time) x 7 (frequency), stride 2, BN, ReLU, max pool 3 x 3 stride 2 -> [n, c, b/4, t/4]
      -> four stages of 3, 4, 6, 3 blocks, c, 2c, 4c, 8c channels, the last three halving both sides
      -> mean over space -> [n, 8c], c = 64

A block maps [n, i, b, t] to [n, c, b/s, t/s]; every convolution has a BN behind it, and DW is depthwise:

    h = 1x1(x), stride s
    y = sum over k in {21, 11, 3} of ReLU(DW_frequency_k(ReLU(DW_time_k(h))))
    block = ReLU(shortcut(x) + 1x1(1x1(y), c -> 4c), 4c -> c)          no activation between the last two

The shortcut is the identity, or a 1 x 1 convolution where the shape changes; the last BN of a block begins with
weight zero. The ReLU inside each branch is not linear, so the three branches cannot be added up into one kernel:
this network cannot be fused. `audio_rep_inception_next` is the one made for that.

Our inputs are [bands, frames], the paper's [frames, bands], so kernels lie the other way: time is a 1 x k kernel.
Our choice: three input channels, for photos (one in the paper); no dropout, which belongs to the classifier; and the
phone size: 32 channels, blocks 1, 1, 2, 1, kernels 11, 7, 3, a 3 x 3 stem of stride 2 without pooling, and SiLU.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from pocketfed.core.backbones.folding import ConvNorm


@dataclass(frozen=True)
class Size:
    """What distinguishes the published network from ours for phones.

    Attributes:
        width: channels of the first stage; each further stage has twice as many.
        blocks: of each stage.
        kernels: of the branches, in taps; odd, the longest first.
        small: a stem for small inputs, which halves their sides once and not twice.
        activation: after each convolution that has one.
        inputs: channels of the input.
    """

    width: int = 64
    blocks: tuple[int, ...] = (3, 4, 6, 3)
    kernels: tuple[int, ...] = (21, 11, 3)
    small: bool = False
    activation: Callable[[], nn.Module] = nn.ReLU
    inputs: int = 3


FULL = Size()
PHONE = Size(32, (1, 1, 2, 1), (11, 7, 3), small=True, activation=nn.SiLU)


class Block(nn.Module):
    """The parts that this network's block and AudioRepInceptionNeXt's have in common; see the module's docstring."""

    def __init__(self, inputs: int, channels: int, stride: int, size: Size) -> None:
        super().__init__()
        plain = stride == 1 and inputs == channels
        self.head = ConvNorm(inputs, channels, 1, stride)
        self.time = nn.ModuleList(ConvNorm(channels, channels, (1, k), groups=channels) for k in size.kernels)
        self.frequency = nn.ModuleList(
            ConvNorm(channels, channels, (k, 1), groups=channels) for k in size.kernels
        )
        self.widen = ConvNorm(channels, 4 * channels, 1)
        self.narrow = ConvNorm(4 * channels, channels, 1)
        self.shortcut: nn.Module = nn.Identity() if plain else ConvNorm(inputs, channels, 1, stride)
        self.act = size.activation()
        nn.init.zeros_(self.narrow.norm.weight)


class CascadeBlock(Block):
    """Each scale is a cascade of its own, with an activation inside: [n, i, b, t] -> [n, c, b/stride, t/stride]."""

    def forward(self, x: Tensor) -> Tensor:
        """[n, i, b, t] -> [n, c, b/stride, t/stride]."""
        h = self.head(x)
        scales = [
            self.act(frequency(self.act(time(h))))
            for time, frequency in zip(self.time, self.frequency, strict=True)
        ]
        mixed = sum(scales[1:], scales[0])
        out: Tensor = self.act(self.shortcut(x) + self.narrow(self.widen(mixed)))
        return out


class Trunk(nn.Module):
    """Stem, four stages of one kind of block, mean over space: [n, inputs, bands, frames] -> [n, features]."""

    def __init__(self, block: type[Block], size: Size) -> None:
        super().__init__()
        kernel = 3 if size.small else (7, 5)
        stem = [ConvNorm(size.inputs, size.width, kernel, stride=2), size.activation()]
        self.stem = nn.Sequential(*stem, *([] if size.small else [nn.MaxPool2d(3, 2, 1)]))
        stages, inputs = [], size.width
        for i, count in enumerate(size.blocks):
            channels = size.width * 2**i
            strides = [1 if i == 0 else 2] + [1] * (count - 1)
            widths = [inputs] + [channels] * (count - 1)
            stages += [block(w, channels, s, size) for w, s in zip(widths, strides, strict=True)]
            inputs = channels
        self.stages = nn.Sequential(*stages)
        self.features = inputs

    def forward(self, inputs: Tensor) -> Tensor:
        """[n, inputs, bands, frames] -> [n, features]."""
        pooled: Tensor = self.stages(self.stem(inputs)).mean((2, 3))
        return pooled


class AudioInceptionNeXt(Trunk):
    """See the module's docstring. `fuse` refuses it."""

    why_not_fused = (
        "each of its branches has an activation between the time and the frequency kernel, so branches do not add "
        "up to one kernel; audio_rep_inception_next is the form that does"
    )

    def __init__(self, size: Size = FULL) -> None:
        super().__init__(CascadeBlock, size)


def full() -> nn.Module:
    """The published size, 11.7 M parameters, 512 features."""
    return AudioInceptionNeXt(FULL)


def phone() -> nn.Module:
    """The phone size, 256 features."""
    return AudioInceptionNeXt(PHONE)

"""ResNet (He et al., 2016, arXiv 1512.03385), with basic blocks: 18 and 34 layers, and a form for small inputs.

    [n, 3, h, w] -> stem -> four stages of c, 2c, 4c, 8c channels, the last three halving both sides -> mean -> [n, 8c]
    stem: 7 x 7 stride 2, BN, ReLU, max pool 3 x 3 stride 2; for small inputs 3 x 3 of stride 1, BN, ReLU
    block: ReLU(shortcut(x) + BN(3x3(ReLU(BN(3x3(x), stride s)))))

The shortcut is the identity, or a 1 x 1 convolution of stride s with a BN where the shape changes. The form for small
inputs is the usual one for CIFAR. Convolutions begin as in the paper: normal, variance 2 / fan out.

Our choice: the phone size, one block a stage, 24 channels, the stem for small inputs, and SiLU.
"""

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from pocketfed.core.backbones.folding import ConvNorm


class Block(nn.Module):
    """The basic block: [n, i, h, w] -> [n, o, h/stride, w/stride]."""

    def __init__(self, inputs: int, outputs: int, stride: int, activation: Callable[[], nn.Module]) -> None:
        super().__init__()
        plain = stride == 1 and inputs == outputs
        self.first = ConvNorm(inputs, outputs, 3, stride)
        self.second = ConvNorm(outputs, outputs, 3)
        self.shortcut: nn.Module = nn.Identity() if plain else ConvNorm(inputs, outputs, 1, stride)
        self.act = activation()

    def forward(self, x: Tensor) -> Tensor:
        """[n, i, h, w] -> [n, o, h/stride, w/stride]."""
        out: Tensor = self.act(self.shortcut(x) + self.second(self.act(self.first(x))))
        return out


class ResNet(nn.Module):
    """See the module's docstring.

    Args:
        blocks: of each stage.
        width: channels of the first stage.
        small: a stem for small inputs.
        activation: after each normalisation and sum.
    """

    def __init__(
        self,
        blocks: Sequence[int],
        width: int = 64,
        small: bool = False,
        activation: Callable[[], nn.Module] = nn.ReLU,
    ) -> None:
        super().__init__()
        stem = ConvNorm(3, width, 3) if small else ConvNorm(3, width, 7, 2)
        pool = [] if small else [nn.MaxPool2d(3, 2, 1)]
        self.stem = nn.Sequential(stem, activation(), *pool)
        stages: list[nn.Module] = []
        inputs = width
        for i, count in enumerate(blocks):
            for k in range(count):
                stages.append(Block(inputs, width * 2**i, 2 if i > 0 and k == 0 else 1, activation))
                inputs = width * 2**i
        self.stages = nn.Sequential(*stages)
        self.features = inputs
        for part in self.modules():
            if isinstance(part, nn.Conv2d):
                nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, inputs: Tensor) -> Tensor:
        """[n, 3, h, w] -> [n, features]."""
        pooled: Tensor = self.stages(self.stem(inputs)).mean((2, 3))
        return pooled


def resnet18(small: bool = False) -> nn.Module:
    """11.2 M parameters without a classifier, 512 features."""
    return ResNet((2, 2, 2, 2), small=small)


def resnet34(small: bool = False) -> nn.Module:
    """21.3 M parameters without a classifier, 512 features."""
    return ResNet((3, 4, 6, 3), small=small)


def phone() -> nn.Module:
    """The phone size, 192 features."""
    return ResNet((1, 1, 1, 1), 24, small=True, activation=nn.SiLU)

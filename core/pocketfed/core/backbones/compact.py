"""`compact`: the default backbone, a plain CNN of 0.42 M parameters for inputs of about 32 x 32.

The design is ours. GroupNorm keeps it independent of the batch and of the modality in it (alternating modalities
would corrupt BatchNorm's running statistics), strides replace pooling, and every stage is a 3 x 3 convolution,
which is what phones run best. SiLU, because it is smooth: at the kink of a ReLU a rounding error turns a gradient on
or off, and a phone and its simulation, which round differently, would be strangers after ten steps.

    [n, 3, h, w] -> 24, h -> 64, h/2 -> 128, h/4 -> 128 (residual) -> 160, h/8 -> mean over space -> [n, 160]
"""

from torch import Tensor, nn


class ConvNormAct(nn.Sequential):
    """3 x 3 convolution without bias, GroupNorm in 8 groups, SiLU: [n, i, h, w] -> [n, o, h/stride, w/stride]."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__(
            nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False), nn.GroupNorm(8, outputs), nn.SiLU()
        )


class Compact(nn.Module):
    """Four stages and one residual convolution; see the module's docstring for the shapes."""

    features = 160

    def __init__(self) -> None:
        super().__init__()
        self.stem = ConvNormAct(3, 24, stride=1)
        self.stage1 = ConvNormAct(24, 64, stride=2)
        self.stage2 = ConvNormAct(64, 128, stride=2)
        self.residual = ConvNormAct(128, 128, stride=1)
        self.stage3 = ConvNormAct(128, self.features, stride=2)

    def forward(self, inputs: Tensor) -> Tensor:
        """[n, 3, h, w] -> [n, 160]."""
        x = self.stage2(self.stage1(self.stem(inputs)))  # [n, 128, h/4, w/4]
        x = x + self.residual(x)
        pooled: Tensor = self.stage3(x).mean((2, 3))  # [n, 160]
        return pooled

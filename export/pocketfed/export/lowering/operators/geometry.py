"""The sizes of a two-dimensional convolution."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

Pair = tuple[int, int]


@dataclass(frozen=True)
class Geometry:
    """One convolution. Pairs are (vertical, horizontal)."""

    batch: int
    in_channels: int
    out_channels: int
    groups: int
    size: Pair
    kernel: Pair
    stride: Pair
    padding: Pair
    dilation: Pair

    @property
    def output(self) -> Pair:
        """Height and width of the result."""
        spans = [(k - 1) * d + 1 for k, d in zip(self.kernel, self.dilation, strict=True)]
        vertical, horizontal = (
            (size + 2 * padding - span) // stride + 1
            for size, padding, span, stride in zip(self.size, self.padding, spans, self.stride, strict=True)
        )
        return vertical, horizontal

    @property
    def dense(self) -> bool:
        """Whether every output channel sees every input channel."""
        return self.groups == 1

    @property
    def depthwise(self) -> bool:
        """Whether every output channel sees one input channel, its own."""
        return self.groups == self.in_channels == self.out_channels and self.groups > 1

    def offsets(self, axis: int) -> list[int]:
        """Where each tap of an axis looks, relative to `stride * output position`."""
        return [tap * self.dilation[axis] - self.padding[axis] for tap in range(self.kernel[axis])]


def geometry(
    x: Tensor,
    weight: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Geometry:
    """The geometry of a convolution of x [N, C, H, W] with weight [O, C / groups, kh, kw]."""
    batch, channels, height, width = x.shape
    return Geometry(
        batch,
        channels,
        weight.shape[0],
        groups,
        (height, width),
        (weight.shape[2], weight.shape[3]),
        _pair(stride),
        _pair(padding),
        _pair(dilation),
    )


def _pair(values: Sequence[int]) -> Pair:
    return values[0], values[-1]

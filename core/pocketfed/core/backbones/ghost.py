"""RepGhostNet-style networks (Chen et al., 2022) in the forms of FedRepOpt (Lau et al., 2024, arXiv 2409.15898).

    [n, 3, h, w] -> 3 x 3 stride 2, 16 w channels, BN, ReLU -> 16 bottlenecks -> 1 x 1, 960 w channels, BN, ReLU
      -> mean over space -> 1 x 1 with bias, ReLU -> [n, 1280], w = 0.5
    module: ReLU(BN(branches(ReLU(BN(1x1(x)))))), branches DW 3 x 3 and the identity
    bottleneck: shortcut(x) + module(squeeze(BN(DW kxk(module(x)), stride 2)))

The second module of a bottleneck has no ReLU. DW and squeeze-and-excitation (a quarter of the channels, hard sigmoid)
are there where the row of the table says so. The shortcut is the identity, or DW kxk of the stride, BN, 1 x 1, BN where
the shape changes. `linear_branches` has the five forms of the branches; in `rep` there is no BN behind their sum. A
search for the constants begins with sqrt(2 / (m + 1)) in the m-th module of a stage; those that ours has found for the
phone size are in the package (`scales_file`).

Our reading: a stage begins with a stride of 2, its modules are counted from one. Our choices: no dropout, which belongs
to the classifier; and the phone size: w = 1, nine of the rows, a stem of stride 1, 480 features before the mean and no
layer after it, and SiLU.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional

from pocketfed.core.backbones.folding import ConvNorm
from pocketfed.core.backbones.linear_branches import Branches, Form, Scales, linear, one_for_each
from pocketfed.core.backbones.scales_file import shipped_scales

Row = tuple[int, int, int, bool, int]
"""Kernel, channels between, channels out, squeeze-and-excitation, stride."""

ROWS: tuple[Row, ...] = (
    (3, 8, 16, False, 1),
    (3, 24, 24, False, 2), (3, 36, 24, False, 1),
    (5, 36, 40, True, 2), (5, 60, 40, True, 1),
    (3, 120, 80, False, 2), (3, 100, 80, False, 1), (3, 120, 80, False, 1), (3, 120, 80, False, 1),
    (3, 240, 112, True, 1), (3, 336, 112, True, 1),
    (5, 336, 160, True, 2), (5, 480, 160, False, 1), (5, 480, 160, True, 1), (5, 480, 160, False, 1),
    (5, 480, 160, True, 1),
)  # fmt: skip


@dataclass(frozen=True)
class Size:
    """What distinguishes the published network from ours for phones.

    Attributes:
        width: what channels are multiplied with; the results are rounded to multiples of 4.
        rows: of the bottlenecks.
        stride: of the stem.
        tail: channels before the mean, before they are multiplied.
        head: channels of the layer behind the mean; 0: there is none.
        activation: after each normalisation that has one.
    """

    width: float = 0.5
    rows: tuple[Row, ...] = ROWS
    stride: int = 2
    tail: int = 960
    head: int = 1280
    activation: Callable[[], nn.Module] = nn.ReLU

    def channels(self, count: int) -> int:
        """`count` times the width, as a multiple of 4."""
        return in_fours(count * self.width)


def in_fours(channels: float) -> int:
    """The nearest multiple of 4, but at least 4, and the next one where that would lose a tenth or more."""
    nearest = max(4, int(channels + 2) // 4 * 4)
    return nearest if nearest >= 0.9 * channels else nearest + 4


HALF = Size()
PHONE = Size(1.0, tuple(ROWS[i] for i in (0, 1, 2, 3, 4, 5, 6, 9, 10)), 1, 480, 0, nn.SiLU)


class Module(nn.Module):
    """1 x 1 convolution, then cheap depthwise branches: [n, i, h, w] -> [n, o, h, w]."""

    def __init__(
        self, inputs: int, branches: Branches, form: Form, scales: Scales, activation: Callable[[], nn.Module]
    ) -> None:
        super().__init__()
        self.primary = nn.Sequential(ConvNorm(inputs, branches.outputs, 1), activation())
        norm = nn.Identity() if form is Form.REP else nn.BatchNorm2d(branches.outputs)
        self.cheap = nn.Sequential(linear(branches, form, scales), norm, activation())

    def forward(self, x: Tensor) -> Tensor:
        """[n, i, h, w] -> [n, o, h, w]."""
        out: Tensor = self.cheap(self.primary(x))
        return out


class Squeeze(nn.Module):
    """Each channel times a number that the means of all channels give: [n, c, h, w] -> [n, c, h, w]."""

    def __init__(self, channels: int, hidden: int, activation: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, hidden, 1)
        self.act = activation()
        self.expand = nn.Conv2d(hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[n, c, h, w] -> [n, c, h, w]."""
        means = x.mean((2, 3), keepdim=True)
        return x * functional.hardsigmoid(self.expand(self.act(self.reduce(means))))


class Bottleneck(nn.Module):
    """A module, the row's extras, another module, and a shortcut: [n, i, h, w] -> [n, o, h/stride, w/stride]."""

    def __init__(self, inputs: int, row: Row, size: Size, form: Form, scales: tuple[Scales, Scales]) -> None:
        super().__init__()
        kernel, middle, outputs, squeezes, stride = row
        middle, outputs = size.channels(middle), size.channels(outputs)
        act = size.activation
        parts: list[nn.Module] = [Module(inputs, cheap(middle), form, scales[0], act)]
        if stride > 1:
            parts.append(ConvNorm(middle, middle, kernel, stride, middle))
        if squeezes:
            parts.append(Squeeze(middle, in_fours(middle / 4), act))
        parts.append(Module(middle, cheap(outputs), form, scales[1], nn.Identity))
        self.parts = nn.Sequential(*parts)
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or inputs != outputs:
            along = ConvNorm(inputs, inputs, kernel, stride, inputs)
            self.shortcut = nn.Sequential(along, ConvNorm(inputs, outputs, 1))

    def forward(self, x: Tensor) -> Tensor:
        """[n, i, h, w] -> [n, o, h/stride, w/stride]."""
        out: Tensor = self.shortcut(x) + self.parts(x)
        return out


def cheap(channels: int) -> Branches:
    """A depthwise 3 x 3 convolution and the identity."""
    return Branches(channels, channels, (3,), groups=channels)


def constants(size: Size) -> list[Scales]:
    """Of every module in order, before any search."""
    scales, place = [], 0
    for _, middle, outputs, _, stride in size.rows:
        place = 0 if stride > 1 else place
        for channels in (middle, outputs):
            place += 1
            scales.append(cheap(size.channels(channels)).constant(math.sqrt(2.0 / (place + 1))))
    return scales


class Ghost(nn.Module):
    """See the module's docstring.

    Args:
        size: of the network.
        form: of its branches.
        scales: of every module in order, as `searched` gives them; without, the constants before any search.
    """

    def __init__(self, size: Size, form: Form = Form.REPOPT, scales: Sequence[Scales] | None = None) -> None:
        super().__init__()
        chosen = scales or constants(size)
        widths = [size.channels(count) for _, middle, outputs, *_ in size.rows for count in (middle, outputs)]
        one_for_each([cheap(width) for width in widths], chosen)
        inputs, act = size.channels(16), size.activation
        self.stem = nn.Sequential(ConvNorm(3, inputs, 3, size.stride), act())
        bottlenecks = []
        for row, first, second in zip(size.rows, chosen[0::2], chosen[1::2], strict=True):
            bottlenecks.append(Bottleneck(inputs, row, size, form, (first, second)))
            inputs = size.channels(row[2])
        self.bottlenecks = nn.Sequential(*bottlenecks)
        self.features = size.channels(size.tail)
        self.tail = nn.Sequential(ConvNorm(inputs, self.features, 1), act())
        self.head: nn.Module = nn.Identity()
        if size.head:
            self.head = nn.Sequential(nn.Linear(self.features, size.head), act())
            self.features = size.head

    def forward(self, inputs: Tensor) -> Tensor:
        """[n, 3, h, w] -> [n, features]."""
        features: Tensor = self.head(self.tail(self.bottlenecks(self.stem(inputs))).mean((2, 3)))
        return features


def half(form: str) -> nn.Module:
    """The published width of one half: 1.0 M parameters without a classifier, 1280 features."""
    return Ghost(HALF, Form(form))


def phone(form: str, searched: bool = True) -> nn.Module:
    """The phone size, 480 features; its constants are those of our search, or those with which a search begins."""
    return Ghost(PHONE, Form(form), shipped_scales("ghost") if searched and form != Form.HS else None)

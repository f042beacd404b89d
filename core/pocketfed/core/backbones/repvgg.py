"""RepVGG-style networks (Ding et al., 2021) in the forms of FedRepOpt (Lau et al., 2024, arXiv 2409.15898).

    [n, 3, h, w] -> five stages of blocks, each beginning with stride 2 -> mean over space -> [n, features]
    block: ReLU(BN(branches(x))), branches 3 x 3, 1 x 1 and, where the shape stays, the identity

`linear_branches` has the five forms of the branches; `rep` has a BN in each branch and, as FedRepOpt's baseline does
and RepVGG does not, the one behind the sum as well. A search for the constants begins with sqrt(2 / l) in the l-th block
of a stage, 1 in its first; those that ours has found for the phone size are in the package (`scales_file`).

Our reading: blocks of a stage are counted from one. Our choice: the phone size, which does not halve its first stage
and has no fifth, with SiLU.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from pocketfed.core.backbones.linear_branches import Branches, Form, Scales, linear, one_for_each
from pocketfed.core.backbones.scales_file import shipped_scales


@dataclass(frozen=True)
class Size:
    """Of each stage: channels, blocks, stride of the first block. And what follows each normalisation."""

    widths: tuple[int, ...]
    blocks: tuple[int, ...]
    strides: tuple[int, ...]
    activation: Callable[[], nn.Module] = nn.ReLU

    def branches(self) -> Iterator[tuple[Branches, float]]:
        """Of every block in order, with the constant that it has before any search."""
        inputs = 3
        for width, count, stride in zip(self.widths, self.blocks, self.strides, strict=True):
            for i in range(count):
                scale = 1.0 if i == 0 else math.sqrt(2.0 / (i + 1))
                yield Branches(inputs, width, (3, 1), stride if i == 0 else 1), scale
                inputs = width


B1 = Size((64, 128, 256, 512, 2048), (1, 4, 6, 16, 1), (2, 2, 2, 2, 2))
PHONE = Size((24, 32, 64, 128), (1, 2, 2, 3), (1, 2, 2, 2), nn.SiLU)


class RepVgg(nn.Module):
    """See the module's docstring.

    Args:
        size: of the network.
        form: of its branches.
        scales: of every block in order, as `searched` gives them; without, the constants before any search.
    """

    def __init__(self, size: Size, form: Form = Form.REPOPT, scales: Sequence[Scales] | None = None) -> None:
        super().__init__()
        every = list(size.branches())
        chosen = scales or [branches.constant(scale) for branches, scale in every]
        one_for_each([branches for branches, _ in every], chosen)
        self.blocks = nn.Sequential(
            *(
                nn.Sequential(
                    linear(branches, form, own), nn.BatchNorm2d(branches.outputs), size.activation()
                )
                for (branches, _), own in zip(every, chosen, strict=True)
            )
        )
        self.features = size.widths[-1]

    def forward(self, inputs: Tensor) -> Tensor:
        """[n, 3, h, w] -> [n, features]."""
        pooled: Tensor = self.blocks(inputs).mean((2, 3))
        return pooled


def b1(form: str) -> nn.Module:
    """RepVGG-B1: 49.8 M parameters without a classifier as a target, 2048 features."""
    return RepVgg(B1, Form(form))


def phone(form: str, searched: bool = True) -> nn.Module:
    """The phone size, 128 features; its constants are those of our search, or those with which a search begins."""
    return RepVgg(PHONE, Form(form), shipped_scales("repvgg") if searched and form != Form.HS else None)

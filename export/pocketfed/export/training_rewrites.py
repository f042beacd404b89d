"""What becomes of a network's layers when its learning step is exported, for a person who chooses a network.

The compiler (`lowering`) decides by operators; this goes by modules, whose names a person knows.
"""

from collections import Counter
from dataclasses import dataclass

from torch import nn

from pocketfed.core.layout import BATCH_NORMS


@dataclass(frozen=True)
class Rewrite:
    """One kind of layer.

    Attributes:
        layers: `BatchNorm2d`, with how many there are.
        becomes: what stands for it in the program.
    """

    layers: str
    becomes: str


LAYERS: tuple[tuple[type | tuple[type, ...], str], ...] = (
    (
        BATCH_NORMS,
        "the batch's own statistics in training; the running ones, {statistics} numbers, are part of the weights (+groupnorm has none)",
    ),
    (
        (nn.MaxPool2d, nn.AdaptiveMaxPool2d),
        "a maximum of shifted copies; the gradient goes to a window's first maximum, as in PyTorch, without indices",
    ),
    ((nn.AvgPool2d, nn.AdaptiveAvgPool2d), "a mean of shifted copies"),
    ((nn.LayerNorm, nn.GroupNorm), "kept; its gradient is written with products and means"),
    (
        (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.Hardswish, nn.Hardsigmoid, nn.Hardtanh),
        "kept; at its kink a rounding turns a gradient on or off, so phone and simulation drift apart",
    ),
)
"""By class, except convolutions: what stands for such a layer."""


def training_rewrites(network: nn.Module) -> list[Rewrite]:
    """The rewrites that the learning step of a network needs, one for each kind of layer that it has."""
    kinds: dict[str, Counter[str]] = {}
    statistics = 0
    for part in network.modules():
        if becomes := _becomes(part):
            kinds.setdefault(becomes, Counter())[type(part).__name__] += 1
        if isinstance(part, BATCH_NORMS) and part.running_mean is not None:
            statistics += 2 * part.num_features
    return [
        Rewrite(
            ", ".join(f"{count} {name}" for name, count in counts.items()),
            becomes.format(statistics=f"{statistics:,}"),
        )
        for becomes, counts in kinds.items()
    ]


def _becomes(part: nn.Module) -> str:
    if isinstance(part, nn.Conv2d):
        return _convolution(part)
    return next((becomes for kinds, becomes in LAYERS if isinstance(part, kinds)), "")


def _convolution(part: nn.Conv2d) -> str:
    if part.groups == part.in_channels > 1:
        return "depthwise: banded matrices of the taps, a product for each channel"
    if part.kernel_size == (1, 1):
        return "1 x 1: one product, with the weights as an input"
    return (
        "dense or grouped: products of shifted pixels with the weights, which are an input; XNNPACK's own convolution "
        "wants constants"
    )

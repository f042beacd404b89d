"""How much a sliding window's input is padded; convolution and pooling share it."""

import math
from collections.abc import Sequence

from torch import Tensor

from pocketfed.export.mil.operators.arguments import padding


def window_padding(
    sizes: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
    pad_type: str,
    pad: Tensor | None,
) -> list[int]:
    """Amounts before and after each axis, first axis first.

    Args:
        sizes: of the input's spatial axes.
        kernel, strides, dilations: of the window, by axis.
        pad_type: `valid` is none; `custom` is `pad`; `same` keeps ceil(size / stride), with the odd one behind, and
            `same_lower` with it in front.
        pad: amounts, for `custom`.
    """
    if pad_type == "valid":
        return [0] * (2 * len(sizes))
    if pad_type == "custom":
        return padding(pad, 2 * len(sizes))
    if pad_type not in ("same", "same_lower"):
        raise ValueError(f"padding {pad_type!r} is not known here")
    amounts = []
    for size, extent, stride, dilation in zip(sizes, kernel, strides, dilations, strict=True):
        needed = (math.ceil(size / stride) - 1) * stride + (extent - 1) * dilation + 1
        total = max(0, needed - size)
        small, large = total // 2, total - total // 2
        amounts += [small, large] if pad_type == "same" else [large, small]
    return amounts

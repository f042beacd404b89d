"""Convolution and its transpose, of one to three spatial axes."""

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.nn import functional

from pocketfed.export.mil.operators.arguments import each, last_first, padding
from pocketfed.export.mil.operators.windows import window_padding

FORWARD: tuple[Any, ...] = (functional.conv1d, functional.conv2d, functional.conv3d)
TRANSPOSED: tuple[Any, ...] = (
    functional.conv_transpose1d, functional.conv_transpose2d, functional.conv_transpose3d,
)  # fmt: skip


def conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    strides: Tensor | None = None,
    pad_type: str = "valid",
    pad: Tensor | None = None,
    dilations: Tensor | None = None,
    groups: Tensor | int = 1,
) -> Tensor:
    """[n, i, *sizes] by [o, i / groups, *kernel] -> [n, o, *sizes']."""
    axes = x.dim() - 2
    steps, spread = each(strides, axes, 1), each(dilations, axes, 1)
    amounts = window_padding(x.shape[2:], weight.shape[2:], steps, spread, pad_type, pad)
    if any(amounts):
        x = functional.pad(x, last_first(amounts))
    result: Tensor = FORWARD[axes - 1](x, weight, bias, steps, 0, spread, int(groups))
    return result


def conv_transpose(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    pad: Tensor | None = None,
    output_shape: Tensor | None = None,
    pad_type: str = "valid",
    strides: Tensor | None = None,
    dilations: Tensor | None = None,
    groups: Tensor | int = 1,
) -> Tensor:
    """The gradient of a convolution for its input; padding takes away, and a given output shape may add behind."""
    if pad_type not in ("valid", "custom"):
        raise ValueError(f"a transposed convolution padded by {pad_type!r} is not known here")
    axes = x.dim() - 2
    steps, spread = each(strides, axes, 1), each(dilations, axes, 1)
    whole: Tensor = TRANSPOSED[axes - 1](x, weight, None, steps, 0, 0, int(groups), spread)
    amounts = padding(pad if pad_type == "custom" else None, 2 * axes)
    sizes = None if output_shape is None else each(output_shape, 2 + axes)[2:]
    for axis in range(axes):
        before, after = amounts[2 * axis : 2 * axis + 2]
        have = whole.shape[2 + axis]
        size = have - before - after if sizes is None else sizes[axis]
        if before + size > have:
            grow = [0, 0] * (axes - 1 - axis) + [0, before + size - have]
            whole = functional.pad(whole, grow)
        whole = whole.narrow(2 + axis, before, size)
    # Last, as what was added behind has it too.
    return whole if bias is None else whole + bias.reshape(-1, *[1] * axes)


OPERATORS: dict[str, Callable[..., Any]] = {"conv": conv, "conv_transpose": conv_transpose}

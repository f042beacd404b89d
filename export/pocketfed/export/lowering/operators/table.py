"""Which function stands for which ATen operator while a step is traced."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch._decomp import core_aten_decompositions
from torch._ops import OpOverload

from pocketfed.export.lowering.operators import (
    activations,
    attention,
    batch_statistics,
    normalisation,
    pooling,
    reductions,
)
from pocketfed.export.lowering.operators.axes import pad
from pocketfed.export.lowering.operators.convolution import convolution, convolution_backward
from pocketfed.export.lowering.options import Passes

aten = torch.ops.aten

# Operators that the graph rewrites or XNNPACK take as they are; decomposing them would only scatter them.
KEPT = (aten.hardtanh.default, aten.addmm.default, aten.split_with_sizes.default, aten.unbind.int)


def decompositions(passes: Passes) -> dict[OpOverload, Callable[..., Any]]:
    """PyTorch's core decompositions, with ours in place of what XNNPACK would not take."""
    table: dict[OpOverload, Callable[..., Any]] = dict(core_aten_decompositions())
    for operator in KEPT:
        table.pop(operator, None)
    table |= _STATELESS
    table |= {
        aten.convolution.default: partial(convolution, passes),
        aten.convolution_backward.default: partial(convolution_backward, passes),
        aten.native_group_norm.default: partial(normalisation.group_norm, passes),
        aten.native_group_norm_backward.default: partial(normalisation.group_norm_backward, passes),
    }
    return table


def slice_backward(grad: Tensor, sizes: list[int], dim: int, start: int, end: int, step: int) -> Tensor:
    """Gradient of a slice: zeros around, and between for steps above one."""
    del end
    size, axis = sizes[dim], dim % len(sizes)
    first = start + size if start < 0 else min(start, size)
    if step == 1:
        return pad(grad, axis, first, size - first - grad.shape[axis])
    shape = list(grad.shape)
    spread = pad(grad.reshape([*shape[: axis + 1], 1, *shape[axis + 1 :]]), axis + 1, 0, step - 1)
    shape[axis] *= step
    covered = spread.reshape(shape).narrow(axis, 0, min(shape[axis], size - first))
    return pad(covered, axis, first, size - first - covered.shape[axis])


def select_backward(grad: Tensor, sizes: list[int], dim: int, index: int) -> Tensor:
    """Gradient of picking one position of an axis."""
    axis = dim % len(sizes)
    position = index % sizes[axis]
    return pad(grad.unsqueeze(axis), axis, position, sizes[axis] - 1 - position)


_STATELESS: dict[OpOverload, Callable[..., Any]] = {
    aten.native_layer_norm.default: normalisation.layer_norm,
    aten.native_layer_norm_backward.default: normalisation.layer_norm_backward,
    aten.native_batch_norm.default: normalisation.batch_norm,
    aten.native_batch_norm_backward.default: normalisation.batch_norm_backward,
    aten._native_batch_norm_legit.no_stats: batch_statistics.batch_norm_without_statistics,
    aten._native_batch_norm_legit_functional.default: batch_statistics.batch_norm_with_statistics,
    aten.avg_pool2d.default: pooling.avg_pool2d,
    aten.avg_pool2d_backward.default: pooling.avg_pool2d_backward,
    aten.max_pool2d_with_indices.default: pooling.max_pool2d,
    aten.max_pool2d_with_indices_backward.default: pooling.max_pool2d_backward,
    aten._adaptive_avg_pool2d.default: pooling.adaptive_avg_pool2d,
    aten._adaptive_avg_pool2d_backward.default: pooling.adaptive_avg_pool2d_backward,
    aten.sum.default: reductions.total,
    aten.sum.dim_IntList: reductions.sum_over,
    aten.mean.default: reductions.mean_all,
    aten.mean.dim: reductions.mean_over,
    aten.var.correction: reductions.variance_over,
    aten.linalg_vector_norm.default: reductions.vector_norm,
    aten.amax.default: reductions.maximum_over,
    aten.amin.default: reductions.minimum_over,
    aten._softmax_backward_data.default: reductions.softmax_backward,
    aten._log_softmax.default: reductions.log_softmax,
    aten._log_softmax_backward_data.default: reductions.log_softmax_backward,
    aten.threshold_backward.default: activations.threshold_backward,
    aten.hardtanh_backward.default: activations.hardtanh_backward,
    aten.leaky_relu_backward.default: activations.leaky_relu_backward,
    aten.silu.default: activations.silu,
    aten.silu_backward.default: activations.silu_backward,
    aten.sigmoid_backward.default: activations.sigmoid_backward,
    aten.tanh_backward.default: activations.tanh_backward,
    aten.hardsigmoid.default: activations.hardsigmoid,
    aten.hardsigmoid_backward.default: activations.hardsigmoid_backward,
    aten.hardswish_backward.default: activations.hardswish_backward,
    aten.elu_backward.default: activations.elu_backward,
    aten.gelu.default: activations.gelu,
    aten.gelu_backward.default: activations.gelu_backward,
    aten.erf.default: activations.erf,
    aten.sgn.default: activations.sign,
    aten.sign.default: activations.sign,
    aten._scaled_dot_product_flash_attention_for_cpu.default: attention.attention,
    aten._scaled_dot_product_flash_attention_for_cpu_backward.default: attention.attention_backward,
    aten._safe_softmax.default: attention.safe_softmax,
    aten.slice_backward.default: slice_backward,
    aten.select_backward.default: select_backward,
}

"""Static int8 quantisation of a backbone, calibrated on real captures.

Convolutions and linear layers compute in int8: weights per output channel, symmetric; activations per tensor, with
ranges from histograms. Everything else (front end, normalisation, activations, pooling) stays float32.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, fx
from torch.export import ExportedProgram

aten = torch.ops.aten

QUANTISED = (aten.conv2d.default, aten.linear.default)
"""What computes in int8."""


def quantise(exported: ExportedProgram, batches: Iterable[Tensor], within: str) -> torch.nn.Module:
    """A module of the same signature whose products are int8.

    Args:
        exported: one input, exported as PyTorch's own operators, without decompositions.
        batches: real inputs, each of the exported shape; they fix the ranges of the activations.
        within: name of the submodule whose operators are quantised.
    """
    from executorch.backends.xnnpack.quantizer import xnnpack_quantizer
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    config = xnnpack_quantizer.get_symmetric_quantization_config(is_per_channel=True)
    quantizer = xnnpack_quantizer.XNNPACKQuantizer()
    # The patterns of quantisation-aware training do not concern us, and looking for them takes seconds.
    quantizer.SUPPORTED_PATTERNS = [pattern for pattern in quantizer.SUPPORTED_PATTERNS if not pattern.is_qat]
    for operator in QUANTISED:
        quantizer.set_operator_type(operator, config)
    quantizer.set_filter_function(lambda node: node.op != "call_function" or _is_within(node, within))
    prepared = prepare_pt2e(exported.module(), quantizer)
    with torch.no_grad():
        for batch in batches:
            prepared(batch)
    converted: torch.nn.Module = convert_pt2e(prepared)
    return converted


def _is_within(node: fx.Node, submodule: str) -> bool:
    """Whether the node comes from the submodule of this name."""
    stack = node.meta.get("nn_module_stack", {}).values()
    return any(submodule in path.split(".") for path, _ in stack)

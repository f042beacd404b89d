"""Weights of a package in fewer bits. Computation stays as it was: the system unfolds them before or while it computes."""

from enum import StrEnum
from typing import Any

import numpy as np

from pocketfed.core.errors import ConfigError
from pocketfed.export.quiet import coremltools, quiet

LEAST = 512
"""Numbers of a tensor from which its weights are stored in fewer bits; below it tables and scales eat up the gain."""


class Weights(StrEnum):
    """How the weights of a backbone are stored."""

    FLOAT16 = "float16"
    """As they compute."""

    INT8 = "int8"
    """A byte each, with one scale for each output channel."""

    PALETTE6 = "palette6"
    """Six bits each, which choose one of 64 values that k-means finds for each tensor."""


UNFOLDED = {"constexpr_affine_dequantize": Weights.INT8, "constexpr_lut_to_dense": Weights.PALETTE6}
"""Operators that unfold weights while a package is loaded, and of which way to store them."""


def choose_weights(name: str) -> Weights:
    """A way to store weights by its name.

    Raises:
        ConfigError: there is none of this name.
    """
    if name not in list(Weights):
        raise ConfigError([f"weights cannot be stored as {name!r}; choose one of: {', '.join(Weights)}"])
    return Weights(name)


def compressed(model: Any, weights: Weights) -> Any:
    """A package with its half-precision weights stored otherwise.

    Args:
        model: coremltools' model; what it stores in float32, such as a front end's constants, is left alone.
        weights: how they are stored.

    Returns:
        coremltools' model.
    """
    if weights is Weights.FLOAT16:
        return model
    tools = coremltools().optimize.coreml
    with quiet():
        stored = tools.get_weights_metadata(model, weight_threshold=LEAST)
        halves = [name for name, about in stored.items() if about.val.dtype == np.float16]
        if not halves:
            return model
        if weights is Weights.INT8:
            how = tools.OpLinearQuantizerConfig(mode="linear_symmetric", weight_threshold=LEAST)
            return tools.linear_quantize_weights(model, _only(tools, halves, how))
        how = tools.OpPalettizerConfig(mode="kmeans", nbits=6, weight_threshold=LEAST)
        return tools.palettize_weights(model, _only(tools, halves, how))


def stored_as(model: Any) -> Weights:
    """How the weights of a package are stored, by the operators that unfold them.

    Args:
        model: its protobuf.
    """
    blocks = [
        block
        for function in model.mlProgram.functions.values()
        for block in function.block_specializations.values()
    ]
    kinds = {operation.type for block in blocks for operation in block.operations}
    return next((weights for operator, weights in UNFOLDED.items() if operator in kinds), Weights.FLOAT16)


def _only(tools: Any, names: list[str], how: Any) -> Any:
    return tools.OptimizationConfig(op_name_configs=dict.fromkeys(names, how))

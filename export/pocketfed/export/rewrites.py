"""What to write instead of an operator that no fast kernel on a phone runs with weights that change."""

from collections.abc import Mapping

GENERAL = "write it with products, elementwise operators, slices and concatenations"

REWRITES: Mapping[str, str] = {
    "cumsum": "multiply by a constant triangular matrix of ones",
    "cumprod": "take exp of a product of log(x) with a constant triangular matrix of ones",
    "roll": "concatenate two slices",
    "flip": "multiply by a constant matrix with ones on its other diagonal",
    "index": "slice, or multiply by a constant matrix of ones and zeros",
    "index_select": "slice, or multiply by a constant matrix of ones and zeros",
    "gather": "multiply by a constant matrix of ones and zeros",
    "scatter": "multiply by a constant matrix of ones and zeros",
    "scatter_add": "multiply by a constant matrix of ones and zeros",
    "embedding": "multiply a one-hot matrix by the table",
    "upsample_nearest2d": "multiply by constant interpolation matrices, as core/views/resample.py does",
    "upsample_bilinear2d": "multiply by constant interpolation matrices, as core/views/resample.py does",
    "convolution": "lower the step first (pocketfed.export.lowering.lower)",
    "max": "use amax, which has a gradient here",
    "min": "use amin, which has a gradient here",
    "argmax": "compare with amax",
    "sort": "compare all pairs and sum",
    "topk": "compare all pairs and sum",
    "pow": "use powers that are multiples of one half up to 8, or exp(exponent * log(x))",
    "prod": "take exp of a sum of log(x)",
    "remainder": "use x - y * floor(x / y)",
    "fmod": "use x - y * floor(x / y)",
    "log1p": "use log(1 + x)",
    "expm1": "use exp(x) - 1",
    "log2": "use log(x) times a constant",
    "log10": "use log(x) times a constant",
    "tan": "use sin(x) / cos(x)",
    "atan2": "keep angles out of the network, or approximate with a polynomial",
    "mish": "use SiLU",
    "softplus": "use log(1 + exp(x)) after clamping x, or SiLU",
    "upsample_bicubic2d": "multiply by constant interpolation matrices, as core/views/resample.py does",
}
"""By the operator's name without namespace and overload; `GENERAL` for all others."""


def advice(operator: str) -> str:
    """What to write instead of an operator named like `aten.cumsum.default`."""
    parts = operator.split(".")
    return REWRITES.get(parts[1] if len(parts) > 1 else operator, GENERAL)

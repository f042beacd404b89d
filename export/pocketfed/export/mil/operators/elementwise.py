"""Operators that treat each element by itself, with broadcasting."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

CASTS = {
    "fp16": torch.float32,  # rounding is by the declared type of the result
    "fp32": torch.float32,
    "int32": torch.int32,
    "int16": torch.int16,
    "int8": torch.int8,
    "uint8": torch.uint8,
    "bool": torch.bool,
}


def cast(x: Tensor, dtype: str) -> Tensor:
    """Convert; numbers with a fraction are cut towards zero."""
    if dtype == "uint8" and x.is_floating_point():
        return x.to(torch.int32).to(torch.uint8)
    return x.to(CASTS[dtype])


def clip(x: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    """Between two bounds."""
    return torch.clamp(x, float(alpha), float(beta))


def log(x: Tensor, epsilon: Tensor | float = 1e-45) -> Tensor:
    """Natural logarithm, away from zero."""
    return torch.log(x + float(epsilon))


def rsqrt(x: Tensor, epsilon: Tensor | float = 1e-12) -> Tensor:
    """One over the square root, away from zero."""
    return torch.rsqrt(x + float(epsilon))


def inverse(x: Tensor, epsilon: Tensor | float = 1e-4) -> Tensor:
    """One over x, away from zero."""
    return 1.0 / (x + float(epsilon))


def sigmoid_hard(x: Tensor, alpha: Tensor | float = 0.2, beta: Tensor | float = 0.5) -> Tensor:
    """min(max(alpha x + beta, 0), 1)."""
    return torch.clamp(x * float(alpha) + float(beta), 0.0, 1.0)


def leaky_relu(x: Tensor, alpha: Tensor | float = 0.01) -> Tensor:
    """x, or alpha x below zero."""
    return functional.leaky_relu(x, float(alpha))


def elu(x: Tensor, alpha: Tensor | float = 1.0) -> Tensor:
    """x, or alpha (exp(x) - 1) below zero."""
    return functional.elu(x, float(alpha))


def gelu(x: Tensor, mode: str = "EXACT") -> Tensor:
    """Gaussian error linear unit in one of its three forms."""
    if mode == "SIGMOID_APPROXIMATION":
        return x * torch.sigmoid(1.702 * x)
    return functional.gelu(x, approximate="tanh" if mode == "TANH_APPROXIMATION" else "none")


def select(cond: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """a where the condition holds, b elsewhere."""
    return torch.where(cond.bool(), a, b)


def fill_like(ref_tensor: Tensor, value: Tensor | float = 0.0) -> Tensor:
    """One value in the shape of another tensor."""
    return torch.full_like(ref_tensor, float(value))


def floor_div(x: Tensor, y: Tensor) -> Tensor:
    """The quotient, rounded down."""
    return torch.div(x, y, rounding_mode="floor")


def _unary(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    return lambda x: function(x)


def _binary(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda x, y: function(x, y)


UNARY: dict[str, Callable[[Tensor], Tensor]] = {
    "abs": torch.abs,
    "ceil": torch.ceil,
    "cos": torch.cos,
    "erf": torch.erf,
    "exp": torch.exp,
    "exp2": torch.exp2,
    "floor": torch.floor,
    "identity": lambda x: x,
    "logical_not": torch.logical_not,
    "relu": functional.relu,
    "relu6": functional.relu6,
    "round": torch.round,
    "sigmoid": torch.sigmoid,
    "sign": torch.sign,
    "silu": functional.silu,
    "sin": torch.sin,
    "softplus": functional.softplus,
    "softsign": functional.softsign,
    "sqrt": torch.sqrt,
    "square": torch.square,
    "tanh": torch.tanh,
}

BINARY: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "add": torch.add,
    "equal": torch.eq,
    "floor_div": floor_div,
    "greater": torch.gt,
    "greater_equal": torch.ge,
    "less": torch.lt,
    "less_equal": torch.le,
    "logical_and": torch.logical_and,
    "logical_or": torch.logical_or,
    "maximum": torch.maximum,
    "minimum": torch.minimum,
    "mod": torch.remainder,
    "mul": torch.mul,
    "not_equal": torch.ne,
    "pow": torch.pow,
    "real_div": torch.true_divide,
    "sub": torch.sub,
}

OPERATORS: dict[str, Callable[..., Any]] = {
    **{name: _unary(function) for name, function in UNARY.items()},
    **{name: _binary(function) for name, function in BINARY.items()},
    "cast": cast,
    "clip": clip,
    "elu": elu,
    "fill_like": fill_like,
    "gelu": gelu,
    "inverse": inverse,
    "leaky_relu": leaky_relu,
    "log": log,
    "rsqrt": rsqrt,
    "select": select,
    "sigmoid_hard": sigmoid_hard,
}

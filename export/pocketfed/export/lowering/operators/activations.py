"""Activations and their gradients, with comparisons as steep clamps.

XNNPACK has no booleans. A mask is a float of zeros and ones: `clamp(x * STEEP, 0, 1)` is one for every
normal x > 0 and zero for x <= 0.
"""

import math

import torch
from torch import Tensor

STEEP = 1e38
_BELOW_THREE = 3.0 - 2.0**-22  # the largest float32 below 3


def positive(x: Tensor) -> Tensor:
    """1.0 where x > 0, else 0.0."""
    return torch.nn.functional.hardtanh(x * STEEP, 0.0, 1.0)


def sign(x: Tensor) -> Tensor:
    """-1.0, 0.0 or 1.0."""
    return torch.nn.functional.hardtanh(x * STEEP, -1.0, 1.0)


def threshold_backward(grad: Tensor, x: Tensor, threshold: float) -> Tensor:
    """Gradient of ReLU, from its input or its output."""
    return grad * positive(x if threshold == 0 else x - float(threshold))


def hardtanh_backward(grad: Tensor, x: Tensor, low: float, high: float) -> Tensor:
    """Gradient of clamping to [low, high] (ReLU6 is [0, 6])."""
    return grad * (positive(x - float(low)) * positive(float(high) - x))


def leaky_relu_backward(grad: Tensor, x: Tensor, slope: float, is_result: bool) -> Tensor:
    """Gradient of leaky ReLU."""
    del is_result
    return grad * (positive(x) * (1.0 - slope) + slope)


def silu(x: Tensor) -> Tensor:
    """x * sigmoid(x)."""
    return x * torch.sigmoid(x)


def silu_backward(grad: Tensor, x: Tensor) -> Tensor:
    """Gradient of SiLU."""
    s = torch.sigmoid(x)
    return grad * (s + x * s * (1.0 - s))


def sigmoid_backward(grad: Tensor, y: Tensor) -> Tensor:
    """Gradient of the logistic function, from its output y."""
    return grad * (y - y * y)


def tanh_backward(grad: Tensor, y: Tensor) -> Tensor:
    """Gradient of tanh, from its output y."""
    return grad * (1.0 - y * y)


def hardsigmoid(x: Tensor) -> Tensor:
    """clamp(x / 6 + 1/2, 0, 1)."""
    return torch.nn.functional.hardtanh(x * (1.0 / 6.0) + 0.5, 0.0, 1.0)


def hardsigmoid_backward(grad: Tensor, x: Tensor) -> Tensor:
    """Gradient of the hard sigmoid."""
    return grad * (positive(3.0 - torch.abs(x)) * (1.0 / 6.0))


def hardswish_backward(grad: Tensor, x: Tensor) -> Tensor:
    """Gradient of hardswish: 0 up to -3, x / 3 + 1/2 between, 1 from 3."""
    inside = torch.nn.functional.hardtanh(x, -_BELOW_THREE, _BELOW_THREE)
    # At the ends the line stands at -1/2 and 3/2; whatever lies beyond has half of a unit to go back.
    beyond = torch.nn.functional.hardtanh((x - inside) * STEEP, -0.5, 0.5)
    return grad * (inside * (1.0 / 3.0) - beyond + 0.5)


def elu_backward(
    grad: Tensor, alpha: float, scale: float, input_scale: float, is_result: bool, x: Tensor
) -> Tensor:
    """Gradient of ELU, from its input or (`is_result`) its output."""
    above = positive(x)
    below = x if is_result else torch.exp(torch.clamp_max(x * input_scale, 0.0)) * alpha
    slope = (below + alpha if is_result else below) * (scale * input_scale)
    return grad * (above * scale + (1.0 - above) * slope)


def erf(x: Tensor) -> Tensor:
    """The error function, after Abramowitz and Stegun 7.1.26; absolute error below 2e-7."""
    magnitude = torch.abs(x)
    t = torch.reciprocal(magnitude * 0.3275911 + 1.0)
    series = t * 1.061405429 - 1.453152027
    for coefficient in (1.421413741, -0.284496736, 0.254829592):
        series = series * t + coefficient
    return sign(x) * (1.0 - series * t * torch.exp(-magnitude * magnitude))


def gelu(x: Tensor, approximate: str = "none") -> Tensor:
    """x * Phi(x), or its tanh form."""
    if approximate == "tanh":
        return x * _gelu_gate(x, x * x * _GELU_CUBIC)
    return x * 0.5 * (erf(x * math.sqrt(0.5)) + 1.0)


def gelu_backward(grad: Tensor, x: Tensor, approximate: str = "none") -> Tensor:
    """Gradient of GELU: Phi(x) + x * phi(x), or that of the tanh form."""
    if approximate == "tanh":
        curve = x * x * _GELU_CUBIC
        gate = _gelu_gate(x, curve)
        y = x * gate  # the forward pass's own
        return grad * (gate + (y - y * gate) * (curve * 3.0 + _GELU_LINEAR))
    cumulative = (erf(x * math.sqrt(0.5)) + 1.0) * 0.5
    density = torch.exp(x * x * -0.5) * (1.0 / math.sqrt(2.0 * math.pi))
    return grad * (cumulative + x * density)


_GELU_LINEAR = 2.0 * math.sqrt(2.0 / math.pi)
_GELU_CUBIC = 0.044715 * _GELU_LINEAR


def _gelu_gate(x: Tensor, curve: Tensor) -> Tensor:
    """(1 + tanh(u)) / 2 = sigmoid(2u), two operators fewer; 2u = x * (cubic * x * x + linear)."""
    return torch.sigmoid(x * (curve + _GELU_LINEAR))

"""Stochastic gradient descent with momentum, as torch.optim.SGD; `sgd-nesterov` looks one step ahead.

    g' = g + weight_decay * theta
    m' = momentum * m + g'
    theta' = theta - learning_rate * m'                      sgd
    theta' = theta - learning_rate * (g' + momentum * m')    sgd-nesterov

The state is m, which starts at zero: the first step then sets m' = g', as torch's does.
"""

from torch import Tensor

from pocketfed.core.optimisers.optimiser import Optimiser, Rates


def _sgd(theta: Tensor, gradient: Tensor, state: Tensor, rates: Rates) -> tuple[Tensor, Tensor]:
    momentum = rates["momentum"] * state + _decayed(theta, gradient, rates)
    return theta - rates["learning_rate"] * momentum, momentum


def _nesterov(theta: Tensor, gradient: Tensor, state: Tensor, rates: Rates) -> tuple[Tensor, Tensor]:
    decayed = _decayed(theta, gradient, rates)
    momentum = rates["momentum"] * state + decayed
    return theta - rates["learning_rate"] * (decayed + rates["momentum"] * momentum), momentum


def _decayed(theta: Tensor, gradient: Tensor, rates: Rates) -> Tensor:
    return gradient + rates["weight_decay"] * theta


SGD = Optimiser("sgd", vectors=1, scalars=0, learning_rate=0.03, update=_sgd, linear=True)
NESTEROV = Optimiser("sgd-nesterov", vectors=1, scalars=0, learning_rate=0.03, update=_nesterov, linear=True)

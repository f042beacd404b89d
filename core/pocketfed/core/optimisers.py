"""Optimisers as pure functions over flat vectors, written so that they can live inside an exported step."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from torch import Tensor

UpdateRule: TypeAlias = Callable[[Tensor, Tensor, Tensor, Tensor, "Rates"], tuple[Tensor, Tensor]]
"""(theta [p], gradient [p], state [slots * p], anchor [p], rates) -> (theta', state')."""


@dataclass(frozen=True)
class Rates:
    """Scalars (float32 []) that the optimiser reads from the hyper vector."""

    learning_rate: Tensor
    momentum: Tensor
    weight_decay: Tensor
    proximal: Tensor


@dataclass(frozen=True)
class Optimiser:
    """A named update rule and how many state vectors, each as long as the weights, it carries between steps."""

    name: str
    slots: int
    update: UpdateRule


def sgd_update(
    theta: Tensor, gradient: Tensor, state: Tensor, anchor: Tensor, rates: Rates
) -> tuple[Tensor, Tensor]:
    """torch.optim.SGD with momentum and weight decay, plus FedProx's term (Li et al., 2020, equation 2).

        g' = g + weight_decay * theta + proximal * (theta - anchor)
        m' = momentum * m + g'
        theta' = theta - learning_rate * m'

    The state is the momentum buffer; all zeros start it as torch does, whose first step sets m' = g'.
    """
    pull = gradient + rates.weight_decay * theta + rates.proximal * (theta - anchor)
    momentum = rates.momentum * state + pull
    return theta - rates.learning_rate * momentum, momentum


SGD = Optimiser("sgd", slots=1, update=sgd_update)

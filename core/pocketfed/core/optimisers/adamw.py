"""AdamW (Loshchilov and Hutter, 2019), as torch.optim.AdamW.

    m' = momentum * m + (1 - momentum) * g
    v' = second_momentum * v + (1 - second_momentum) * g^2
    theta' = theta * (1 - learning_rate * weight_decay)
             - learning_rate * (m' / d1') / (sqrt(v' / d2') + epsilon)

The corrections d = 1 - momentum^t of a state that begins at zero are kept as d' = (1 - momentum) + momentum * d, so
that they begin at zero as well and no step has to be counted. The state is cat(m, v, d1, d2).
"""

import torch
from torch import Tensor

from pocketfed.core.optimisers.optimiser import Optimiser, Rates


def _adamw(theta: Tensor, gradient: Tensor, state: Tensor, rates: Rates) -> tuple[Tensor, Tensor]:
    size = theta.shape[0]
    first, second, corrections = torch.split(state, [size, size, 2])
    decay = torch.stack([rates["momentum"], rates["second_momentum"]])  # [2]
    corrections = (1.0 - decay) + decay * corrections
    first = decay[0] * first + (1.0 - decay[0]) * gradient
    second = decay[1] * second + (1.0 - decay[1]) * (gradient * gradient)
    deviation = torch.sqrt(second) / torch.sqrt(corrections[1]) + rates["epsilon"]
    moved = (rates["learning_rate"] / corrections[0]) * (first / deviation)
    kept = theta * (1.0 - rates["learning_rate"] * rates["weight_decay"])
    return kept - moved, torch.cat([first, second, corrections])


ADAMW = Optimiser("adamw", vectors=2, scalars=2, learning_rate=1e-3, update=_adamw)

"""FedEMA and FedU: what a phone begins a round with, of the server's weights and its own.

FedEMA (Zhuang, Wen, Zhang, ICLR 2022), as EasyFL runs it. With own_k the phone's weights after its last round and d_k
how far that round's training went:

    d_k = mean over layers of |after - before|        lambda_k = tau / d_k, fixed when it is first used
    mu = min(lambda_k d_k, 1)                         begin with mu own_k + (1 - mu) global

FedU (Zhuang, Gan, Wen, Zhang, Yi, ICCV 2021) begins with the global weights, but with the phone's own projector if
d_k is more than a threshold.

Our choices: the layers of d_k are the backbone's slices with more than one dimension (EasyFL: convolutions, by name);
running statistics are the server's; a phone that has not moved at all (d_k = 0) begins with the global weights.
"""

import numpy as np
from numpy.typing import NDArray

from pocketfed.core.blend import Blend, BlendRule
from pocketfed.core.layout import Layout, Role
from pocketfed.mobile_client.phone_memory import Vectors

OWN, DISTANCE, RATE = "own", "distance", "rate"
"""Names in the memory: own_k, of the layout that travels; d_k and lambda_k, one number each."""


def distance(layout: Layout, before: NDArray[np.float32], after: NDArray[np.float32]) -> float:
    """d_k of a training that led from `before` to `after`, both float32 [layout.size]; in float64."""
    change = after.astype(np.float64) - before
    moved = [
        float(np.linalg.norm(change[part.offset : part.offset + part.size]))
        for part in layout.slices
        if part.role is Role.BACKBONE and len(part.shape) > 1
    ]
    return float(np.mean(moved)) if moved else 0.0


def blended(
    blend: Blend, layout: Layout, sent: NDArray[np.float32], memory: Vectors
) -> tuple[NDArray[np.float32], float]:
    """What to begin with, and lambda_k (0 as long as it is not fixed).

    Args:
        blend: the rule and its numbers.
        layout: of what travels.
        sent: the server's weights, float32 [layout.size].
        memory: `OWN`, `DISTANCE` and `RATE` of the phone's last round; empty before its first one.
    """
    if blend.rule is BlendRule.NONE or not {OWN, DISTANCE, RATE} <= memory.keys():
        return sent, 0.0
    own, moved, rate = memory[OWN], float(memory[DISTANCE][0]), float(memory[RATE][0])
    if blend.rule is BlendRule.FEDU:
        if moved <= blend.threshold:
            return sent, rate
        return layout.scatter(layout.gather(own, [Role.PROJECTOR]), [Role.PROJECTOR], sent), rate
    if moved == 0:
        return sent, rate
    rate = rate or blend.tau / moved
    mu = min(rate * moved, 1.0)
    begun = sent.copy()
    trained = slice(layout.trained)
    begun[trained] = mu * own[trained].astype(np.float64) + (1 - mu) * sent[trained]
    return begun, rate

"""DP-FedAvg: the mean of clipped changes, with Gaussian noise (McMahan et al., 2018), under any rule over a mean.

    d_k = (w_k - g) min(1, C / |w_k - g|)        w = g + (sum_k d_k + N(0, (z C)^2)) / m

over the whole vector that travels. Each phone counts the same: its reported examples are its own claim, and a weight
that depends on them would not be bounded. m is fixed beforehand, so that one phone's update in place of an answer that
adds nothing moves the sum by at most C, and in place of another's by at most 2 C, whatever else is in it.

The rule gets one update, the noisy mean. All that it does is post-processing, which costs no privacy and asks nothing
of the rule. `refusal` says which rules mean the same over one mean as over the updates: FedAvg and what builds on it.

Noise is added although no update came: whether the guard refused the only one may depend on its captures.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pocketfed.core.layout import Layout, Role
from pocketfed.core.plan import Update
from pocketfed.server.aggregators import Aggregator, Broadcast, FedAvg, GlobalModel, ServerOptimiser
from pocketfed.server.privacy.mechanism import Mechanism
from pocketfed.server.privacy.noise import Normals, system_normals

CLIP = "privacy.clip"
"""In a model's memory: the norm of the next round, float32 [1]; only where it is adaptive."""


@dataclass(frozen=True)
class ClippedSum:
    """The state of a private fold.

    Attributes:
        begun: what the round began with.
        clip: C in this round.
        total: float64 [p], sum of clipped changes.
        centred: sum of +1/2 for each update within the norm, of -1/2 for each that was clipped.
    """

    begun: Broadcast
    clip: float
    total: NDArray[np.float64]
    centred: float = 0.0


@dataclass(frozen=True)
class PrivateMean:
    """See the module's docstring.

    Attributes:
        over: what becomes of the noisy mean.
        mechanism: clipping and noise.
        normals: where noise comes from.
    """

    over: Aggregator[Any]
    mechanism: Mechanism
    normals: Normals = system_normals

    def start(self, begun: Broadcast) -> ClippedSum:
        """See `Aggregator`."""
        return ClippedSum(begun, clip_of(begun.memory, self.mechanism), np.zeros(begun.layout.size))

    def add(self, state: ClippedSum, update: Update) -> ClippedSum:
        """See `Aggregator`. A late update's discount counts: it is the server's, and at most 1."""
        change = np.subtract(update.weights, state.begun.weights, dtype=np.float64)
        norm = float(np.linalg.norm(change))
        within = norm <= state.clip
        change *= update.discount * (1.0 if within else state.clip / norm)
        total = np.add(state.total, change, out=state.total)
        return replace(state, total=total, centred=state.centred + (0.5 if within else -0.5))

    def merge(self, first: ClippedSum, second: ClippedSum) -> ClippedSum:
        """See `Aggregator`. Sums merge; noise comes once, at the end."""
        a, b = first.begun, second.begun
        if a.round != b.round or first.clip != second.clip or not np.array_equal(a.weights, b.weights):
            raise ValueError("folds that began with different weights cannot be merged")
        return replace(first, total=first.total + second.total, centred=first.centred + second.centred)

    def finish(self, state: ClippedSum) -> GlobalModel:
        """See `Aggregator`. Each call is a release of its own, with noise of its own."""
        begun, mechanism = state.begun, self.mechanism
        spread = mechanism.weights_multiplier * state.clip
        noisy = state.total + spread * self.normals(begun.layout.size)
        mean = (begun.weights + noisy / mechanism.updates).astype(np.float32)
        theirs = {name: kept for name, kept in begun.memory.items() if name != CLIP}
        fold = self.over.start(replace(begun, memory=theirs))
        model = self.over.finish(
            self.over.add(fold, Update(_possible(mean, begun.layout), 1, round=begun.round))
        )
        if mechanism.adaptive is None:
            return model
        clip = mechanism.adaptive.next(
            state.clip, state.centred, mechanism.updates, float(self.normals(1)[0])
        )
        return GlobalModel(model.weights, {**model.memory, CLIP: np.array([clip], dtype=np.float32)})


def clip_of(memory: Mapping[str, NDArray[Any]], mechanism: Mechanism) -> float:
    """The clipping norm of a round that begins with this memory."""
    if mechanism.adaptive is None or CLIP not in memory:
        return mechanism.clip
    return float(memory[CLIP][0])


def refusal(rule: Aggregator[Any]) -> str | None:
    """Why a rule cannot be made private by clipping and noise, or None if it can."""
    if isinstance(rule, FedAvg):
        return None
    if isinstance(rule, ServerOptimiser):
        return refusal(rule.inner)
    return (
        f"{type(rule).__name__} looks at each update in a way that clipping does not bound, so noise cannot hide one; "
        "only fedavg, and server optimisers over it, can be private"
    )


def _possible(weights: NDArray[np.float32], layout: Layout) -> NDArray[np.float32]:
    """A variance is not negative, whatever the noise was; nothing else is known of weights beforehand."""
    for part in layout.slices:
        if part.role is Role.BUFFER and part.name.endswith("running_var"):
            span = slice(part.offset, part.offset + part.size)
            np.maximum(weights[span], 0, out=weights[span])
    return weights

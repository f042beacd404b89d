"""Krum and multi-Krum: the updates that are nearest to most others (Blanchard et al., NeurIPS 2017).

    score_k = sum of |w_k - w_j|^2 over the n - f - 2 updates j nearest to k
    w       = mean of the m updates with the smallest scores

f (`byzantine`) is how many phones may lie; the guarantee wants n >= 2 f + 3. Krum is m = 1, multi-Krum takes m = n - f.

Our choices: distances are over all slices, running statistics included, since an update that lies in these alone must
not be chosen either; of two with the same score, which the two ends of the shortest distance have when only one
neighbour counts, the one that is nearer to all others comes first; a round begins with no fewer phones than 2 f + 3
updates take, one to which fewer answer leaves the weights as they are and says so in the log, and a run that can have no
other rounds is refused. Memory and merging: see `stack`; finishing takes n^2 p multiplications.
"""

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from pocketfed.server.aggregators.stack import KeepsAll, Stack


def squared_distances(stack: Stack) -> NDArray[np.float64]:
    """float64 [updates, updates], symmetric to the last bit."""
    gram = np.zeros((stack.updates, stack.updates))
    for span, block in stack.blocks():
        # Changes are small numbers, whose products cancel less.
        away = block.astype(np.float64) - stack.begun.weights[span]
        gram += away @ away.T
    norms = np.diag(gram)
    distances: NDArray[np.float64] = np.maximum(norms[:, None] + norms[None, :] - 2 * gram, 0.0)
    return distances


def ranking(distances: NDArray[np.float64], neighbours: int) -> NDArray[np.int64]:
    """Indices of the updates, that with the smallest score first."""
    others = np.sort(distances, axis=1)[:, 1:]  # without the distance to itself, which is 0
    order: NDArray[np.int64] = np.lexsort((others.sum(axis=1), others[:, :neighbours].sum(axis=1)))
    return order


@dataclass(frozen=True)
class Krum(KeepsAll):
    """See the module's docstring.

    Attributes:
        byzantine: f.
        keep: m; 0 is n - f.
    """

    byzantine: Annotated[int, Field(ge=0)] = 1
    keep: Annotated[int, Field(ge=0)] = 1

    @property
    def fewest(self) -> int:
        """Updates without which there is no guarantee."""
        return 2 * self.byzantine + 3

    def combine(self, stack: Stack) -> NDArray[np.float32]:
        """See `KeepsAll`."""
        n = stack.updates
        chosen = ranking(squared_distances(stack), n - self.byzantine - 2)
        chosen = np.sort(chosen[: min(n, self.keep or n - self.byzantine)])
        result = np.empty_like(stack.begun.weights)
        for span, block in stack.blocks():
            result[span] = block[chosen].mean(axis=0, dtype=np.float64)
        return result

"""Coordinate-wise trimmed mean of the updates (Yin et al., ICML 2018): a share `trim` of the phones may lie.

    w[i] = mean of w_1[i], ..., w_n[i] without the b largest and the b smallest

Our choice: b = ceil(trim n), so that a trim above 0 leaves something out in the smallest round too, but at most so
many that one, or two of an even number, remain, which is the median. Running statistics are treated alike. Memory and
merging: see `stack`.
"""

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from pocketfed.server.aggregators.stack import KeepsAll, Stack
from pocketfed.server.share import share_of


def mean_of_middle(stack: Stack, left_out: int) -> NDArray[np.float32]:
    """Of each coordinate, the mean (in float64) of what remains without so many at either end; float32 [p]."""
    result = np.empty_like(stack.begun.weights)
    kept = slice(left_out, stack.updates - left_out)
    for span, block in stack.blocks():
        block.sort(axis=0)
        result[span] = block[kept].mean(axis=0, dtype=np.float64)
    return result


@dataclass(frozen=True)
class TrimmedMean(KeepsAll):
    """See the module's docstring.

    Attributes:
        trim: share of the updates that is left out at either end.
    """

    trim: Annotated[float, Field(ge=0, lt=0.5)] = 0.1

    def combine(self, stack: Stack) -> NDArray[np.float32]:
        """See `KeepsAll`."""
        wanted = share_of(stack.updates, self.trim)
        return mean_of_middle(stack, min(wanted, (stack.updates - 1) // 2))

"""Coordinate-wise median of the updates (Yin et al., ICML 2018): one half of the phones less one may lie.

    w[i] = median of w_1[i], ..., w_n[i]

The mean of the two in the middle where n is even. Running statistics are treated alike: a median of variances is a
variance. Memory and merging: see `stack`.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pocketfed.server.aggregators.stack import KeepsAll, Stack
from pocketfed.server.aggregators.trimmed_mean import mean_of_middle


@dataclass(frozen=True)
class CoordinateMedian(KeepsAll):
    """See the module's docstring."""

    def combine(self, stack: Stack) -> NDArray[np.float32]:
        """See `KeepsAll`."""
        return mean_of_middle(stack, (stack.updates - 1) // 2)

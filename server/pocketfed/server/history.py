"""The weights that the last rounds began with, for updates that are late."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class History:
    """The newest versions of the weights, and no more than that.

    Attributes:
        most: how many are kept.
        versions: by the round that began with them, float32 [p].
    """

    most: int
    versions: Mapping[int, NDArray[np.float32]] = field(default_factory=dict)

    def begin(self, round_number: int, weights: NDArray[np.float32]) -> "History":
        """With one version more, which is the newest, and without those that are too old."""
        versions = {**self.versions, round_number: weights}
        return History(self.most, {number: versions[number] for number in sorted(versions)[-self.most :]})

"""The run-time numbers of a learning step, as one small vector, so that a program never has to be rebuilt."""

from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Hyper:
    """What a step is told besides weights and captures. The order of the fields is the order of the vector.

    Attributes:
        learning_rate: positive.
        momentum: in [0, 1); AdamW's first beta.
        weight_decay: at least 0.
        proximal: FedProx's mu, at least 0; pulls the weights towards those the round began with.
        temperature: of the objective; positive.
        second_momentum: in [0, 1); AdamW's second beta, which other optimisers ignore.
        epsilon: positive; AdamW's, which other optimisers ignore.
    """

    learning_rate: float = 0.03
    momentum: float = 0.9
    weight_decay: float = 5e-4
    proximal: float = 0.0
    temperature: float = 0.3
    second_momentum: float = 0.999
    epsilon: float = 1e-8

    def vector(self, counts: Sequence[int]) -> NDArray[np.float32]:
        """float32 [7 + len(counts)]: the fields, then for each modality of the step how many captures are real.

        A batch has a fixed size; captures behind the first `count` (at least 2) are ignored.
        """
        return np.asarray([*astuple(self), *counts], dtype=np.float32)


RANGES = {
    "learning_rate": "above 0",
    "momentum": "[0, 1)",
    "weight_decay": "at least 0",
    "proximal": "at least 0",
    "temperature": "above 0",
    "second_momentum": "[0, 1)",
    "epsilon": "above 0",
}
"""Of each field, in words."""

HYPER = tuple(field.name for field in fields(Hyper))
"""Names of the first entries of the vector, in order."""

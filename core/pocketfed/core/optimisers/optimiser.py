"""What an optimiser is: a pure function over flat vectors, so that it can live inside an exported step."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from torch import Tensor

Rates: TypeAlias = Mapping[str, Tensor]
"""The fields of `Hyper`, by name, as float32 []."""

UpdateRule: TypeAlias = Callable[[Tensor, Tensor, Tensor, Rates], tuple[Tensor, Tensor]]
"""(theta [p], gradient [p], state [size], rates) -> (theta', state'). It changes none of its inputs."""


@dataclass(frozen=True)
class Optimiser:
    """A named update rule and the state that it carries between steps.

    Attributes:
        name: in the registry, and what distinguishes its programs from those of another.
        vectors: how many numbers of state each trained weight has. The first of them, of all weights, come first; a step
            from zeros with momentum and weight decay of 0 leaves the gradient there.
        scalars: how many more numbers of state there are, whatever the number of weights.
        learning_rate: a default that suits the rule.
        update: the rule. All zeros are the state before the first step.
        linear: whether new weights and state are linear in weights, gradient and state, as gradient multipliers need it.
            A rule that clips gradients, or divides them by their size, is not.
    """

    name: str
    vectors: int
    scalars: int
    learning_rate: float
    update: UpdateRule
    linear: bool = False

    def state_size(self, trained: int) -> int:
        """Length of the state vector for this many trained weights."""
        return self.vectors * trained + self.scalars

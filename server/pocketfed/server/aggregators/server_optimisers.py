"""Server optimisers: the cohort's mean is not the new model, but the direction of an optimiser's step.

With x the weights the round began with and a the result of any other rule (`over`, FedAvg by default):

    d = a - x                                     the pseudo-gradient, with its sign turned
    FedAvgM     m <- beta m + d                   x <- x + eta m
    FedAdagrad  m <- beta_1 m + (1 - beta_1) d    v <- v + d^2
    FedYogi     m   likewise                      v <- v - (1 - beta_2) d^2 sign(v - d^2)
    FedAdam     m   likewise                      v <- beta_2 v + (1 - beta_2) d^2
                                                  x <- x + eta m / (sqrt(v) + tau)

FedAvgM is of Hsu et al. (2019), beta = 0.9. The others are algorithm 2 of Reddi et al. (2021): beta_1 = 0.9 (0 for
FedAdagrad), beta_2 = 0.99, tau = 0.001, v begins at tau^2, and nothing is corrected for bias. (Flower's strategies of
these names begin with v = 0, and correct FedAdam's step for bias.) m and v are the rule's memory: they stay on the
server, go into checkpoints, and a resumed run has them again.

Our choices: running statistics (`Role.BUFFER`) are what `over` makes of them and have no moments, since a step beyond
the mean can make a variance negative. The learning rates: the paper tunes eta for each task; in a round an adaptive
rule moves a weight by up to about eta, and 0.01 suits weights like `compact`'s. A round without an update changes
neither weights nor memory.

The state is that of `over`: over a rule that is a sum, these are sums, and a tree's inner nodes need not know of them.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from pocketfed.core.errors import ConfigError
from pocketfed.core.layout import Layout, Role
from pocketfed.core.plan import Update
from pocketfed.server.aggregators.aggregator import Aggregator, Broadcast, GlobalModel
from pocketfed.server.aggregators.registry import build_aggregator
from pocketfed.server.aggregators.room import check_room
from pocketfed.server.aggregators.tree import factors_of

Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Decay = Annotated[float, Field(ge=0, lt=1)]
Vector = NDArray[np.float64]
"""Of the scalars that are no running statistics, in the order of the layout."""


def optimised(layout: Layout) -> NDArray[np.bool_]:
    """bool [p]: which scalars have moments."""
    return np.repeat(
        [part.role is not Role.BUFFER for part in layout.slices], [p.size for p in layout.slices]
    )


@dataclass(frozen=True)
class ServerOptimiser(ABC):
    """What the four share.

    Attributes:
        over: name of the rule whose result gives the direction.
        over_settings: of that rule.
    """

    over: str = "fedavg"
    over_settings: Mapping[str, Any] = field(default_factory=dict)

    moments: ClassVar[tuple[str, ...]]
    """Names of what is remembered."""

    def __post_init__(self) -> None:
        """Raises ConfigError if there is no rule to go over, or none with such settings."""
        if isinstance(self.inner, ServerOptimiser):
            raise ConfigError([f"over: {self.over} is a server optimiser itself; name a rule that is none"])

    @cached_property
    def inner(self) -> Aggregator[Any]:
        """The rule whose result gives the direction."""
        try:
            return build_aggregator(self.over, self.over_settings)
        except ConfigError as error:
            raise ConfigError([f"over: {problem}" for problem in error.problems]) from error

    @abstractmethod
    def initial(self, name: str) -> float:
        """What every entry of a moment is before the first round."""

    @abstractmethod
    def step(self, direction: Vector, moments: Mapping[str, Vector]) -> tuple[Vector, Mapping[str, Vector]]:
        """What to add to the weights, and the moments of the next round."""

    def check_room(self, phones: int, layout: Layout) -> None:
        """See `room.Roomy`."""
        check_room(self.inner, phones, layout)

    def start(self, begun: Broadcast) -> Any:
        """See `Aggregator`."""
        return self.inner.start(begun)

    def add(self, state: Any, update: Update) -> Any:
        """See `Aggregator`."""
        return self.inner.add(state, update)

    def factors(self, begun: Broadcast, most_examples: int) -> tuple[float, float]:
        """See `Bounded`: those of the rule below."""
        return factors_of(self.inner, begun, most_examples)

    def merge(self, first: Any, second: Any) -> Any:
        """See `Aggregator`."""
        return self.inner.merge(first, second)

    def finish(self, state: Any) -> GlobalModel:
        """See `Aggregator`."""
        begun: Broadcast = state.begun
        if not state.updates:
            return GlobalModel(begun.weights, begun.memory)
        found = self.inner.finish(state)
        own = optimised(begun.layout)
        before = begun.weights[own].astype(np.float64)
        moments = {name: self._remembered(begun, name, len(before)) for name in self.moments}
        step, moments_after = self.step(found.weights[own] - before, moments)
        weights = found.weights.copy()
        weights[own] = before + step
        kept = {self._key(name): moment.astype(np.float32) for name, moment in moments_after.items()}
        return GlobalModel(weights, {**found.memory, **kept})

    def _key(self, name: str) -> str:
        return f"{type(self).__name__}.{name}"

    def _remembered(self, begun: Broadcast, name: str, size: int) -> Vector:
        kept = begun.memory.get(self._key(name))
        return np.full(size, self.initial(name)) if kept is None else kept.astype(np.float64)


@dataclass(frozen=True)
class FedAvgM(ServerOptimiser):
    """See the module's docstring.

    Attributes:
        learning_rate: eta.
        momentum: beta.
    """

    learning_rate: Rate = 1.0
    momentum: Decay = 0.9

    moments: ClassVar[tuple[str, ...]] = ("momentum",)

    def initial(self, name: str) -> float:
        """See `ServerOptimiser`."""
        return 0.0

    def step(self, direction: Vector, moments: Mapping[str, Vector]) -> tuple[Vector, Mapping[str, Vector]]:
        """See `ServerOptimiser`."""
        momentum = self.momentum * moments["momentum"] + direction
        return self.learning_rate * momentum, {"momentum": momentum}


@dataclass(frozen=True)
class Adaptive(ServerOptimiser):
    """What the three rules with a second moment share.

    Attributes:
        learning_rate: eta.
        momentum: beta_1.
        tau: how far steps adapt to the size of past ones: the larger, the less.
        second: v before the first round; tau squared if it is not given.
    """

    learning_rate: Rate = 0.01
    momentum: Decay = 0.9
    tau: Rate = 1e-3
    second: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None

    moments: ClassVar[tuple[str, ...]] = ("momentum", "second")

    @abstractmethod
    def grown(self, second: Vector, square: Vector) -> Vector:
        """The second moment after a direction with these squares."""

    def initial(self, name: str) -> float:
        """See `ServerOptimiser`."""
        if name == "momentum":
            return 0.0
        return self.tau**2 if self.second is None else self.second

    def step(self, direction: Vector, moments: Mapping[str, Vector]) -> tuple[Vector, Mapping[str, Vector]]:
        """See `ServerOptimiser`."""
        momentum = self.momentum * moments["momentum"] + (1 - self.momentum) * direction
        second = self.grown(moments["second"], np.square(direction))
        step = self.learning_rate * momentum / (np.sqrt(second) + self.tau)
        return step, {"momentum": momentum, "second": second}


@dataclass(frozen=True)
class FedAdagrad(Adaptive):
    """See the module's docstring."""

    momentum: Decay = 0.0

    def grown(self, second: Vector, square: Vector) -> Vector:
        """See `Adaptive`."""
        return second + square


@dataclass(frozen=True)
class FedYogi(Adaptive):
    """See the module's docstring.

    Attributes:
        second_momentum: beta_2.
    """

    second_momentum: Decay = 0.99

    def grown(self, second: Vector, square: Vector) -> Vector:
        """See `Adaptive`."""
        return second - (1 - self.second_momentum) * square * np.sign(second - square)


@dataclass(frozen=True)
class FedAdam(Adaptive):
    """See the module's docstring.

    Attributes:
        second_momentum: beta_2.
    """

    second_momentum: Decay = 0.99

    def grown(self, second: Vector, square: Vector) -> Vector:
        """See `Adaptive`."""
        return self.second_momentum * second + (1 - self.second_momentum) * square

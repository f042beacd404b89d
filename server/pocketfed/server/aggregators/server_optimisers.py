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
rule moves a weight by up to about eta, and 0.01 suits weights like `compact`'s. A round without an update, or with fewer
than `over` needs, changes neither weights nor memory.

The state is that of `over`: over a rule that is a sum, these are sums, and a tree's inner nodes need not know of them.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from pocketfed.core.errors import ConfigError
from pocketfed.core.layout import Layout, Role
from pocketfed.core.plan import Update
from pocketfed.server.aggregators.aggregator import Aggregator, Broadcast, GlobalModel
from pocketfed.server.aggregators.discounting import discounts_late
from pocketfed.server.aggregators.identity import call, identity, settings_of, written
from pocketfed.server.aggregators.registry import build_aggregator
from pocketfed.server.aggregators.room import Room, room_of
from pocketfed.server.aggregators.steps import Steps, Vector, adaptive, averaged, momentum, summed, towards
from pocketfed.server.aggregators.tree import Bounds, factors_of

Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Decay = Annotated[float, Field(ge=0, lt=1)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]


def optimised(layout: Layout) -> NDArray[np.bool_]:
    """bool [p]: which scalars have moments."""
    return np.repeat(
        [part.role is not Role.BUFFER for part in layout.slices], [p.size for p in layout.slices]
    )


@dataclass(frozen=True)
class ServerOptimiser(ABC):
    """Any fold, with a step in the direction of its result. The four rules are its settings, and choose the steps.

    Attributes:
        over: name of the rule whose result gives the direction.
        over_settings: of that rule.
    """

    over: str = "fedavg"
    over_settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raises ConfigError if there is no rule to go over, or none with such settings."""
        if isinstance(self.inner, ServerOptimiser):
            raise ConfigError([f"over: {self.over} is a server optimiser itself; name a rule that is none"])

    @property
    @abstractmethod
    def steps(self) -> Steps:
        """What becomes of a direction."""

    @cached_property
    def inner(self) -> Aggregator[Any]:
        """The rule whose result gives the direction."""
        try:
            return build_aggregator(self.over, self.over_settings)
        except ConfigError as error:
            raise ConfigError([f"over: {problem}" for problem in error.problems]) from error

    @property
    def discounts_late(self) -> bool:
        """See `Discounting`: as the rule below."""
        return discounts_late(self.inner)

    @property
    def identity(self) -> str:
        """See `Identified`: the rule below stands for its name and its settings, of which others may say the same."""
        own = {name: written(value) for name, value in settings_of(self).items()}
        del own["over"], own["over_settings"]
        return call(type(self).__name__, {**own, "over": identity(self.inner)})

    def room(self, layout: Layout) -> Room:
        """See `Roomy`: that of the rule below."""
        return room_of(self.inner, layout)

    def start(self, begun: Broadcast) -> Any:
        """See `Aggregator`."""
        return self.inner.start(begun)

    def add(self, state: Any, update: Update) -> Any:
        """See `Aggregator`."""
        return self.inner.add(state, update)

    def factors(self, begun: Broadcast, most_examples: int) -> Sequence[Bounds]:
        """See `Bounded`: those of the rule below."""
        return factors_of(self.inner, begun, most_examples)

    def merge(self, first: Any, second: Any) -> Any:
        """See `Aggregator`."""
        return self.inner.merge(first, second)

    def finish(self, state: Any) -> GlobalModel:
        """See `Aggregator`."""
        begun: Broadcast = state.begun
        found = self.inner.finish(state)
        if state.updates < self.room(begun.layout).fewest:  # no result is no direction, not one of length 0
            return GlobalModel(begun.weights, begun.memory)
        own, steps = optimised(begun.layout), self.steps
        before = begun.weights[own].astype(np.float64)
        moments = {
            name: self._remembered(begun, name, len(before), value) for name, value in steps.initial.items()
        }
        step, moments_after = steps.update(found.weights[own] - before, moments)
        weights = found.weights.copy()
        weights[own] = before + step
        kept = {self._key(name): moment.astype(np.float32) for name, moment in moments_after.items()}
        return GlobalModel(weights, {**found.memory, **kept})

    def _key(self, name: str) -> str:
        return f"{type(self).__name__}.{name}"

    def _remembered(self, begun: Broadcast, name: str, size: int, initial: float) -> Vector:
        kept = begun.memory.get(self._key(name))
        return np.full(size, initial) if kept is None else kept.astype(np.float64)


@dataclass(frozen=True)
class FedAvgM(ServerOptimiser):
    """See the module's docstring.

    Attributes:
        learning_rate: eta.
        momentum: beta.
    """

    learning_rate: Rate = 1.0
    momentum: Decay = 0.9

    @property
    def steps(self) -> Steps:
        """See `ServerOptimiser`."""
        return momentum(self.learning_rate, self.momentum)


@dataclass(frozen=True)
class FedAdagrad(ServerOptimiser):
    """See the module's docstring.

    Attributes:
        learning_rate: eta.
        momentum: beta_1.
        tau: how far steps adapt to the size of past ones: the larger, the less.
        second: v before the first round; tau squared if it is not given.
    """

    learning_rate: Rate = 0.01
    momentum: Decay = 0.0
    tau: Rate = 1e-3
    second: NotNegative | None = None

    @property
    def steps(self) -> Steps:
        """See `ServerOptimiser`."""
        return adaptive(self.learning_rate, self.momentum, self.tau, self.second, summed)


@dataclass(frozen=True)
class FedYogi(ServerOptimiser):
    """See the module's docstring.

    Attributes:
        learning_rate, momentum, tau, second: as of `FedAdagrad`.
        second_momentum: beta_2.
    """

    learning_rate: Rate = 0.01
    momentum: Decay = 0.9
    tau: Rate = 1e-3
    second: NotNegative | None = None
    second_momentum: Decay = 0.99

    @property
    def steps(self) -> Steps:
        """See `ServerOptimiser`."""
        grown = towards(self.second_momentum)
        return adaptive(self.learning_rate, self.momentum, self.tau, self.second, grown)


@dataclass(frozen=True)
class FedAdam(ServerOptimiser):
    """See the module's docstring.

    Attributes:
        learning_rate, momentum, tau, second: as of `FedAdagrad`.
        second_momentum: beta_2.
    """

    learning_rate: Rate = 0.01
    momentum: Decay = 0.9
    tau: Rate = 1e-3
    second: NotNegative | None = None
    second_momentum: Decay = 0.99

    @property
    def steps(self) -> Steps:
        """See `ServerOptimiser`."""
        grown = averaged(self.second_momentum)
        return adaptive(self.learning_rate, self.momentum, self.tau, self.second, grown)

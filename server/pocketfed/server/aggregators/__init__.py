"""The registry of aggregation rules. Adding one is a file beside this one and a line in `AGGREGATORS`."""

from collections.abc import Callable
from typing import Any

from pocketfed.core.errors import ConfigError
from pocketfed.server.aggregators.aggregator import Aggregator, Broadcast, Sums
from pocketfed.server.aggregators.fedavg import FedAvg
from pocketfed.server.aggregators.ldawa import LDawa

AGGREGATORS: dict[str, Callable[[], Aggregator[Any]]] = {
    "fedavg": FedAvg,
    "ldawa": LDawa,
    "ldawa-normalised": lambda: LDawa(normalise=True),
}


def build_aggregator(name: str) -> Aggregator[Any]:
    """The rule of this name.

    Raises:
        ConfigError: there is none.
    """
    if name not in AGGREGATORS:
        raise ConfigError(
            [f"there is no aggregator named {name!r}; choose one of: {', '.join(sorted(AGGREGATORS))}"]
        )
    return AGGREGATORS[name]()


__all__ = ["AGGREGATORS", "Aggregator", "Broadcast", "FedAvg", "LDawa", "Sums", "build_aggregator"]

"""The aggregation rules. Adding one is a file beside this one and a line below.

From outside the package, `register` in a file that `plugins` names.
"""

from pocketfed.server.aggregators.aggregator import Aggregator, Broadcast, GlobalModel, Memory
from pocketfed.server.aggregators.fedavg import FedAvg
from pocketfed.server.aggregators.ldawa import LDawa
from pocketfed.server.aggregators.registry import AGGREGATORS, build_aggregator, register
from pocketfed.server.aggregators.sums import Sums

register("fedavg", FedAvg)
register("ldawa", LDawa)
register("ldawa-normalised", LDawa, normalise=True)

__all__ = [
    "AGGREGATORS",
    "Aggregator",
    "Broadcast",
    "FedAvg",
    "GlobalModel",
    "LDawa",
    "Memory",
    "Sums",
    "build_aggregator",
    "register",
]

"""The aggregation rules. Adding one is a file beside this one and a line below.

From outside the package, `register` in a file that `plugins` names.
"""

from pocketfed.server.aggregators.aggregator import Aggregator, Broadcast, GlobalModel, Memory
from pocketfed.server.aggregators.discounting import discounts_late
from pocketfed.server.aggregators.fedavg import FedAvg
from pocketfed.server.aggregators.fedvssl import FedVssl
from pocketfed.server.aggregators.identity import identity
from pocketfed.server.aggregators.krum import Krum
from pocketfed.server.aggregators.ldawa import LDawa
from pocketfed.server.aggregators.median import CoordinateMedian
from pocketfed.server.aggregators.registry import AGGREGATORS, build_aggregator, register
from pocketfed.server.aggregators.room import Room, room_of
from pocketfed.server.aggregators.server_optimisers import (
    FedAdagrad,
    FedAdam,
    FedAvgM,
    FedYogi,
    ServerOptimiser,
)
from pocketfed.server.aggregators.stack import Stack
from pocketfed.server.aggregators.sums import Sums
from pocketfed.server.aggregators.tree import check_is_sum, factors_of, fold_bytes, sums_of
from pocketfed.server.aggregators.trimmed_mean import TrimmedMean

register("fedavg", FedAvg)
register("ldawa", LDawa)
register("ldawa-normalised", LDawa, normalise=True)
register("fedvssl", FedVssl)
register("fedavgm", FedAvgM)
register("fedadagrad", FedAdagrad)
register("fedyogi", FedYogi)
register("fedadam", FedAdam)
register("median", CoordinateMedian)
register("trimmed-mean", TrimmedMean)
register("krum", Krum)
register("multi-krum", Krum, keep=0)

__all__ = [
    "AGGREGATORS",
    "Aggregator",
    "Broadcast",
    "CoordinateMedian",
    "FedAdagrad",
    "FedAdam",
    "FedAvg",
    "FedAvgM",
    "FedVssl",
    "FedYogi",
    "GlobalModel",
    "Krum",
    "LDawa",
    "Memory",
    "Room",
    "ServerOptimiser",
    "Stack",
    "Sums",
    "TrimmedMean",
    "build_aggregator",
    "check_is_sum",
    "discounts_late",
    "factors_of",
    "fold_bytes",
    "identity",
    "register",
    "room_of",
    "sums_of",
]

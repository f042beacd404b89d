"""Plans and updates as Flower messages. The model travels as one flat array: cost follows the number of arrays."""

from dataclasses import asdict
from typing import cast

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from numpy.typing import NDArray

from pocketfed.core.errors import UpdateRejected
from pocketfed.core.hyper import HYPER, Hyper
from pocketfed.core.modality import Modality
from pocketfed.core.plan import Plan, Update

ARRAYS, CONFIG, METRICS, WEIGHTS = "arrays", "config", "metrics", "weights"


def pack_weights(weights: NDArray[np.float32]) -> ArrayRecord:
    """float32 [p] as the one array of a record."""
    return ArrayRecord({WEIGHTS: Array(weights)})


def unpack_weights(record: ArrayRecord) -> NDArray[np.float32]:
    """The inverse of `pack_weights`."""
    weights = record[WEIGHTS].numpy()
    if not isinstance(weights, np.ndarray):  # numpy.load makes something else of an archive
        raise TypeError(f"weights are a {type(weights).__name__}")
    return weights


def pack_plan(plan: Plan) -> ConfigRecord:
    """A plan as the config of a message."""
    epochs = {f"epochs-{modality}": count for modality, count in plan.epochs.items()}
    values = {"round": plan.round, "seed": plan.seed, "mixed": plan.mixed}
    return ConfigRecord({**values, **epochs, **asdict(plan.hyper)})


def unpack_plan(record: ConfigRecord) -> Plan:
    """The inverse of `pack_plan`."""
    hyper = Hyper(**{name: float(cast(float, record[name])) for name in HYPER})
    return Plan(
        round=int(cast(int, record["round"])),
        seed=int(cast(int, record["seed"])),
        epochs={m: int(cast(int, record[key])) for m in Modality if (key := f"epochs-{m}") in record},
        mixed=bool(record["mixed"]),
        hyper=hyper,
    )


def pack_update(update: Update) -> RecordDict:
    """An update as the content of a reply."""
    loss = {f"loss-{modality}": value for modality, value in update.loss.items()}
    seen = {f"seen-{modality}": value for modality, value in update.seen.items()}
    metrics = MetricRecord({"num-examples": update.examples, **seen, **loss})
    return RecordDict({ARRAYS: pack_weights(update.weights), METRICS: metrics})


def unpack_update(reply: Message) -> Update:
    """What a phone answered.

    Raises:
        UpdateRejected: the phone reported an error, or the reply is not what `pack_update` makes.
    """
    if reply.has_error():
        raise UpdateRejected(reply.error.reason or f"error {reply.error.code}")
    try:
        return _decode(reply.content)
    # Anything may be in a message from outside, and Flower's decoding raises whatever its parts raise.
    except Exception as error:
        raise UpdateRejected(f"the reply cannot be read ({type(error).__name__}: {error})") from error


def _decode(content: RecordDict) -> Update:
    arrays, metrics = content[ARRAYS], content[METRICS]
    if not isinstance(arrays, ArrayRecord) or not isinstance(metrics, MetricRecord):
        raise TypeError("arrays and metrics are of the wrong type")
    if set(arrays) != {WEIGHTS}:
        raise KeyError(f"arrays are {sorted(arrays)}, expected {[WEIGHTS]}")
    examples = metrics["num-examples"]
    if not isinstance(examples, int):
        raise TypeError("num-examples is no integer")
    loss = {m: float(cast(float, metrics[key])) for m in Modality if (key := f"loss-{m}") in metrics}
    seen = {m: int(cast(int, metrics[key])) for m in Modality if (key := f"seen-{m}") in metrics}
    return Update(unpack_weights(arrays), examples, seen, loss)

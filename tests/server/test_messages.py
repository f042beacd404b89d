"""Plans and updates survive the trip; anything else becomes a rejection."""

import io
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict

from pocketfed.core.errors import UpdateRejected
from pocketfed.core.hyper import Hyper
from pocketfed.core.modality import Modality
from pocketfed.core.plan import Plan, Update
from pocketfed.server.flower_private import act_as_server
from pocketfed.server.messages import pack_plan, pack_update, unpack_plan, unpack_update


def reply(content: RecordDict | Error) -> Message:
    act_as_server(1)
    instruction = Message(RecordDict(), dst_node_id=7, message_type="train")
    return Message(content, reply_to=instruction)


def test_a_plan_survives() -> None:
    plan = Plan(3, 2**32 - 1, {Modality.PHOTO: 2, Modality.SOUND: 7}, True, Hyper(0.01, 0.8, 1e-3, 0.5, 0.2))
    assert unpack_plan(pack_plan(plan)) == plan


def test_an_update_survives_as_one_array() -> None:
    update = Update(np.arange(5, dtype=np.float32), 12, {Modality.SOUND: 12}, {Modality.SOUND: 1.5})
    content = pack_update(update)
    assert len(content.array_records["arrays"]) == 1
    again = unpack_update(reply(content))
    assert np.array_equal(again.weights, update.weights)
    assert (again.examples, again.seen, again.loss) == (12, update.seen, update.loss)


def content(**changes: Any) -> RecordDict:
    records: dict[str, Any] = {
        "arrays": ArrayRecord({"weights": Array(np.ones(3, dtype=np.float32))}),
        "metrics": MetricRecord({"num-examples": 1}),
    }
    records.update(changes)
    return RecordDict({name: record for name, record in records.items() if record is not None})


def archive() -> bytes:
    """What numpy.load takes for an .npz and returns as something that is no array."""
    file = io.BytesIO()
    np.savez(file, weights=np.ones(3, dtype=np.float32))
    return file.getvalue()


@pytest.mark.parametrize(
    "broken",
    [
        content(arrays=None),
        content(metrics=None),
        content(arrays=ArrayRecord({"other": Array(np.ones(3, dtype=np.float32))})),
        content(metrics=MetricRecord({"loss-photo": 1.0})),
        content(metrics=MetricRecord({"num-examples": 1.5})),
        content(metrics=MetricRecord({"num-examples": [1, 2]})),
        content(metrics=ConfigRecord({"num-examples": 1})),
        content(arrays=ArrayRecord({"weights": Array("float32", (3,), "numpy.ndarray", b"no array at all")})),
        content(arrays=ArrayRecord({"weights": Array("float32", (3,), "pickle", b"")})),
        content(arrays=ArrayRecord({"weights": Array("float32", (3,), "numpy.ndarray", archive())})),
    ],
)
def test_what_cannot_be_read_is_a_rejection(broken: RecordDict) -> None:
    with pytest.raises(UpdateRejected, match="cannot be read"):
        unpack_update(reply(broken))


def test_an_error_keeps_the_phones_words() -> None:
    with pytest.raises(UpdateRejected, match="battery is empty"):
        unpack_update(reply(Error(2, "battery is empty")))

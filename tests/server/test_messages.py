"""Instructions, updates and statuses survive the trip; anything else becomes a rejection."""

from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict

from pocketfed.core.blend import Blend, BlendRule
from pocketfed.core.errors import UpdateRejected
from pocketfed.core.formats import Format, Packed
from pocketfed.core.hyper import HYPER, Hyper
from pocketfed.core.modality import Modality
from pocketfed.core.plan import PhoneStatus, Plan, Update
from pocketfed.core.role import Role
from pocketfed.core.travel import Travel
from pocketfed.core.wire import instruction_items, read_instruction, update_items, weights_to_bytes
from pocketfed.server.flower_private import act_as_server
from pocketfed.server.messages import (
    ask_status,
    introduce,
    pack_instruction,
    pack_update,
    unpack_instruction,
    unpack_status,
    unpack_update,
)

UPDATE = Update(
    np.arange(5, dtype=np.float32), 12, {Modality.SOUND: 12}, {Modality.SOUND: 1.5}, round=3, layout="abc"
)


def message(content: RecordDict) -> Message:
    act_as_server(1)
    return Message(content, dst_node_id=7, message_type="train")


def reply(content: RecordDict | Error) -> Message:
    instruction = message(RecordDict())
    return Message(content, reply_to=instruction)


def test_an_instruction_survives_as_one_record() -> None:
    plan = Plan(
        3, 2**32 - 1, {Modality.PHOTO: 2, Modality.SOUND: 7}, True, Hyper(0.01, 0.8, 1e-3, 0.5, 0.2), run="c4"
    )
    weights = np.linspace(-1, 1, 9, dtype=np.float32)
    content = pack_instruction(plan, weights_to_bytes(weights), "abc")
    assert len(content) == 1
    again = unpack_instruction(message(content))
    assert (again.plan, again.layout) == (plan, "abc")
    assert again.weights.dtype == np.float32
    assert np.array_equal(again.weights, weights)


def test_what_travels_and_how_survives_and_is_not_said_where_it_is_as_usual() -> None:
    blend = Blend(BlendRule.FEDEMA, 0.5, 0.25)
    plan = Plan(3, 7, {Modality.PHOTO: 2}, False, Hyper(), blend)
    travel = Travel((Role.BACKBONE, Role.BUFFER), Format.FLOAT16, Format.INT8)
    again = unpack_instruction(message(pack_instruction(plan, b"1234", "abc", travel)))
    assert (again.plan, again.roles, again.wanted) == (plan, travel.roles, Format.INT8)
    assert again.packed == Packed(Format.FLOAT16, b"1234")
    usual = instruction_items(Plan(3, 7, {}, False, Hyper()), b"1234", "abc")
    assert usual == instruction_items(Plan(3, 7, {}, False, Hyper()), b"1234", "abc", Travel())
    assert set(usual) == {"round", "run", "seed", "mixed", "layout", "format", "weights", *HYPER}


@pytest.mark.parametrize(
    "change",
    [{"travels": "head"}, {"travels": ""}, {"update-format": "int4"}, {"blend": "mine"}, {"format": "int4"}],
)
def test_an_instruction_of_a_kind_that_a_phone_does_not_know_is_no_instruction(
    change: dict[str, str],
) -> None:
    usual = instruction_items(Plan(3, 7, {}, False, Hyper()), b"1234", "abc")
    with pytest.raises(ValueError, match=r"is not a valid|expected one of"):
        read_instruction({**usual, **change})


def test_an_update_survives_as_one_record() -> None:
    content = pack_update(UPDATE)
    assert len(content) == 1
    again = unpack_update(reply(content))
    assert np.array_equal(again.weights, UPDATE.weights)
    assert again.weights.dtype == np.float32
    assert (again.examples, again.seen, again.loss) == (12, UPDATE.seen, UPDATE.loss)
    assert (again.round, again.layout) == (3, "abc")


def test_a_status_survives() -> None:
    status = PhoneStatus(2**47 + 1, {Modality.PHOTO: 3}, 2**31, True, "1.10", "abc")
    act_as_server(1)
    assert unpack_status(introduce(ask_status(5), status)) == status


def broken(**changes: Any) -> RecordDict:
    items = {**update_items(UPDATE), **changes}
    return RecordDict({"update": ConfigRecord({k: v for k, v in items.items() if v is not None})})


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (RecordDict(), "KeyError"),
        (RecordDict({"update": MetricRecord({"examples": 1})}), "wrong type"),
        (RecordDict({"update": ArrayRecord({"weights": Array(np.ones(3))})}), "wrong type"),
        (broken(weights=None), "weights"),
        (broken(weights=b"\x00" * 7), "multiple"),
        (broken(weights="text"), "expected bytes"),
        (broken(format="float64"), "'float64'"),
        (broken(format=None), "format"),
        (broken(examples=None), "examples"),
        (broken(examples=1.5), "expected an integer"),
        (broken(examples=[1, 2]), "expected an integer"),
        (broken(examples=True), "expected an integer"),
        (broken(round="3"), "expected an integer"),
        (broken(**{"loss-sound": "low"}), "expected a number"),
        (broken(layout=7), "expected a string"),
    ],
)
def test_what_cannot_be_read_is_a_rejection(content: RecordDict, why: str) -> None:
    with pytest.raises(UpdateRejected, match=rf"cannot be read.*{why}"):
        unpack_update(reply(content))


def test_an_error_keeps_the_phones_words() -> None:
    with pytest.raises(UpdateRejected, match="battery is empty"):
        unpack_update(reply(Error(2, "battery is empty")))

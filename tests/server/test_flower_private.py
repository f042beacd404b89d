"""Fails loudly, and says what changed, when a new Flower no longer has what flower_private builds on."""

import inspect
from importlib.metadata import version

import pytest
from flwr.app import Message, RecordDict
from flwr.common.constant import ErrorCode

from pocketfed.server.flower_private import act_as_server, empty_run, with_id
from pocketfed.server.flower_private.state import State
from pocketfed.server.flower_private.store import BoundedStore
from pocketfed.server.messages import GONE

OVERRIDDEN: dict[type, dict[str, str]] = {
    State: {
        "session": "self",
        "_cleanup_expired_task_tokens": "self",
        "store_traffic": "self, run_id, *, bytes_sent, bytes_recv",
        "add_clientapp_runtime": "self, run_id, runtime",
        "store_message_and_object_tree": "self, message, object_tree, session_id",
    },
    BoundedStore: {
        "preregister": "self, run_id, object_tree",
        "put": "self, object_id, object_content",
        "delete": "self, object_id",
        "clear": "self",
    },
}
"""Methods of Flower's that are replaced, by the class that does it, with their parameters: a method of another name
would be called by nobody, and nothing would say so."""


def test_flower_is_the_version_that_was_read() -> None:
    assert version("flwr") == "1.41.0", (
        "read server/flower_private against the new Flower, then change this line"
    )


def test_instructions_carry_the_identity_that_was_set() -> None:
    act_as_server(run_id=77)
    message = Message(RecordDict(), dst_node_id=5, message_type="train")
    assert message.metadata.run_id == 77, "Flower no longer reads the run id from TaskIdentity"
    assert message.metadata.src_node_id == 1, "Flower no longer reads the sender from TaskIdentity"


def test_message_ids_can_be_set_and_replies_refer_to_them() -> None:
    act_as_server(run_id=1)
    message = with_id(Message(RecordDict(), dst_node_id=5, message_type="train"), "abc")
    assert message.metadata.message_id == "abc", "Metadata no longer keeps its id in `_message_id`"
    assert Message(RecordDict(), reply_to=message).metadata.reply_to_message_id == "abc"


def test_runs_can_be_made_empty() -> None:
    assert empty_run(run_id=9).run_id == 9


def parameters(method: object) -> str:
    found = inspect.signature(method).parameters.values()  # type: ignore[arg-type]
    return ", ".join(
        (
            "*, "
            if p.kind is p.KEYWORD_ONLY and not any(q.kind is p.KEYWORD_ONLY for q in list(found)[:i])
            else ""
        )
        + p.name
        for i, p in enumerate(found)
    )


@pytest.mark.parametrize(
    ("ours", "name"), [(ours, name) for ours, methods in OVERRIDDEN.items() for name in methods]
)
def test_what_is_replaced_of_flower_is_still_there(ours: type, name: str) -> None:
    theirs = getattr(ours.__mro__[1], name, None)
    assert theirs is not None, f"Flower's {ours.__mro__[1].__name__} has no {name} any more"
    expected = OVERRIDDEN[ours][name]
    assert parameters(theirs) == expected, f"Flower's {name} takes other parameters now"
    assert parameters(getattr(ours, name)) == expected


@pytest.mark.parametrize("ours", OVERRIDDEN)
def test_nothing_of_flower_is_replaced_by_accident(ours: type) -> None:
    own = {name for name, member in vars(ours).items() if inspect.isfunction(member) and name != "__init__"}
    assert {name for name in own if hasattr(ours.__mro__[1], name)} == set(OVERRIDDEN[ours])


def test_errors_of_flowers_own_are_told_from_phones() -> None:
    made_up = {ErrorCode.MESSAGE_UNAVAILABLE, ErrorCode.REPLY_MESSAGE_UNAVAILABLE, ErrorCode.NODE_UNAVAILABLE}
    assert made_up == GONE, "Flower's codes for messages that expired and nodes that went have changed"

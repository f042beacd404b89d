"""Fails loudly, and says what changed, when a new Flower no longer has what flower_private.py builds on."""

from importlib.metadata import version

from flwr.app import Message, RecordDict

from pocketfed.server.flower_private import act_as_server, empty_run, with_id


def test_flower_is_the_version_that_was_read() -> None:
    assert version("flwr") == "1.41.0", (
        "read server/flower_private.py against the new Flower, then change this line"
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

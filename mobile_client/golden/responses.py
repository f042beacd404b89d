"""What a server should not answer, and what a phone does about it."""

from collections.abc import Callable
from typing import Any

from golden.encoding import b64, typed
from golden.sample import INSTRUCTION, NODE, NOW, TTL, UPDATE, question
from pocketfed.mobile_client.flower import descriptors as d
from pocketfed.mobile_client.flower.objects import MAX_CHILDREN
from pocketfed.mobile_client.flower.transfer import OFFERS, WAITS

FAIL, IGNORE, DROP, REJECTED, WAIT = "fail", "ignore", "drop", "rejected", "wait"
"""Answer with an error; take it for no message; give the message up; count it as rejected; keep it and try again later."""


def responses() -> dict[str, Any]:
    """A question, and cases in which something about it is wrong.

    Where a case says nothing, the server gives the question, its objects, wants all of the answer and stores it.
    `reply` is the response to every call of its name; `calls` says how many there are until the phone is done or waits.
    """
    asked, objects = question("train", {"instruction": INSTRUCTION})
    return {
        "node": str(NODE),
        "now": NOW,
        "question": b64(asked.SerializeToString(deterministic=True)),
        "objects": [{"id": name, "content": b64(content)} for name, content in objects.items()],
        "answer": typed({"update": UPDATE}),
        "cases": [*_pulling(), *_pushing()],
    }


def _pulling() -> list[dict[str, Any]]:
    def altered(alter: Callable[[Any], None]) -> bytes:
        asked, _ = question("train", {"instruction": INSTRUCTION})
        alter(asked)
        return bytes(asked.SerializeToString(deterministic=True))

    def many(asked: Any) -> None:
        tree = asked.message_object_trees[0]
        tree.children.extend(d.ObjectTree(object_id=f"{i:064x}") for i in range(MAX_CHILDREN))

    def other_ids(asked: Any) -> None:
        asked.messages_list[0].metadata.message_id = "0" * 64

    def no_tree(asked: Any) -> None:
        del asked.message_object_trees[:]

    def expired(asked: Any) -> None:
        asked.messages_list[0].metadata.created_at = NOW - TTL - 1

    def for_another(asked: Any) -> None:
        asked.messages_list[0].metadata.dst_node_id = NODE + 1

    found = {"object_found": True, "object_available": True}
    return [
        _case("a message and objects of different ids", IGNORE, "pull-messages", altered(other_ids),
              {"pull-object": 0, "push-messages": 0}),
        _case("a message without objects", IGNORE, "pull-messages", altered(no_tree),
              {"pull-object": 0, "push-messages": 0}),
        _case("a message with too many objects", FAIL, "pull-messages", altered(many),
              {"pull-object": 0, "push-messages": 1}),
        _case("a message that has expired", DROP, "pull-messages", altered(expired),
              {"pull-object": 0, "push-messages": 0}),
        _case("a message for another node", DROP, "pull-messages", altered(for_another),
              {"pull-object": 0, "push-messages": 0}),
        _case("a page in place of messages", WAIT, "pull-messages", b"<html>", {"pull-object": 0}),
        _case("an object that the server does not have any more", FAIL, "pull-object",
              d.PullObjectResponse(), {"pull-object": 1, "push-messages": 1}),
        _case("an object with another content than its id says", FAIL, "pull-object",
              d.PullObjectResponse(object_content=b"another", **found), {"pull-object": 1, "push-messages": 1}),
        _case("an object that never comes", FAIL, "pull-object", d.PullObjectResponse(object_found=True),
              {"pull-object": WAITS, "push-messages": 1}),
        _case("a page in place of an object", WAIT, "pull-object", b"<html>",
              {"pull-object": 1, "push-messages": 0}),
    ]  # fmt: skip


def _pushing() -> list[dict[str, Any]]:
    asks = d.PushMessagesResponse(objects_to_push=["0" * 64], session_id="6f1d1f0e")
    return [
        _case("an answer of which nothing is wanted", REJECTED, "push-messages", d.PushMessagesResponse(),
              {"push-messages": 1, "push-object": 0}),
        _case("objects are wanted that the answer does not have", DROP, "push-messages", asks,
              {"push-messages": 1, "push-object": 0}),
        _case("objects are wanted and not stored", DROP, "push-object", d.PushObjectResponse(),
              {"push-messages": OFFERS, "push-object": OFFERS}),
        _case("a page in place of a receipt", WAIT, "push-object", b"<html>",
              {"push-messages": 1, "push-object": 1}),
    ]  # fmt: skip


def _case(name: str, action: str, call: str, reply: Any, calls: dict[str, int]) -> dict[str, Any]:
    content = reply if isinstance(reply, bytes) else reply.SerializeToString(deterministic=True)
    return {
        "name": name,
        "reply": {"call": call, "response_bytes": b64(content)},
        "action": action,
        "calls": calls,
    }

"""The calls of Flower's Fleet API that a phone makes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pocketfed.mobile_client.flower import descriptors as d
from pocketfed.mobile_client.flower.calls import Caller


@dataclass(frozen=True)
class Offer:
    """The server's answer to an offered message.

    Attributes:
        missing: ids of the objects that it lacks; none if it has them all, or does not want the message.
        session: under which to push them.
    """

    missing: tuple[str, ...]
    session: str


@dataclass(frozen=True)
class Fleet:
    """The Fleet API. Each method is one call, and raises what `Caller.call` raises.

    Attributes:
        caller: makes the calls.
    """

    caller: Caller

    def register(self) -> int:
        """Make this phone's key known; the id of the new node. Servers that enrol phones themselves refuse."""
        request = d.RegisterNodeRequest(public_key=self.caller.key.public_pem)
        return int(self.caller.call("register-node", request, d.RegisterNodeResponse).node_id)

    def activate(self, interval: float) -> int:
        """Go online until two intervals (10 to 1800 s) have passed without a heartbeat; the node's id.

        Tried once: if the answer is lost the node may be online already, and the caller must know.
        """
        request = d.ActivateNodeRequest(public_key=self.caller.key.public_pem, heartbeat_interval=interval)
        return int(self.caller.call("activate-node", request, d.ActivateNodeResponse, tries=1).node_id)

    def heartbeat(self, node: int, interval: float, tries: int | None = None) -> bool:
        """Stay online, or come back; False if the server has removed the node."""
        request = d.HeartbeatRequest(node=_node(node), heartbeat_interval=interval)
        return bool(self.caller.call("send-node-heartbeat", request, d.HeartbeatResponse, tries).success)

    def pull_messages(self, node: int) -> Any:
        """A `PullMessagesResponse` with at most one message, which the server will not send again."""
        request = d.PullMessagesRequest(node=_node(node))
        return self.caller.call("pull-messages", request, d.PullMessagesResponse)

    def pull_object(self, node: int, run: int, name: str) -> bytes | None:
        """The content of an object; empty while the server does not have it yet, None if it never will."""
        request = d.PullObjectRequest(node=_node(node), run_id=run, object_id=name)
        answer = self.caller.call("pull-object", request, d.PullObjectResponse)
        if not answer.object_found:
            return None
        return bytes(answer.object_content) if answer.object_available else b""

    def confirm(self, node: int, run: int, message: str) -> None:
        """Tell the server that it may forget a message's objects."""
        request = d.ConfirmRequest(node=_node(node), run_id=run, message_object_id=message)
        self.caller.call("confirm-message-received", request, d.ConfirmResponse)

    def push_messages(self, request: Any) -> Offer:
        """Offer one message, a `PushMessagesRequest`. A message that the server does not want is no error."""
        answer = self.caller.call("push-messages", request, d.PushMessagesResponse)
        return Offer(tuple(answer.objects_to_push), answer.session_id)

    def push_object(self, node: int, run: int, name: str, content: bytes, session: str) -> bool:
        """Deliver an object; False if the server did not store it."""
        request = d.PushObjectRequest(
            node=_node(node), run_id=run, object_id=name, object_content=content, session_id=session
        )
        return bool(self.caller.call("push-object", request, d.PushObjectResponse).stored)


def tree_ids(tree: Any, limit: int) -> Sequence[str]:
    """Ids of an `ObjectTree`, children first, each once; at most `limit` and one."""
    found: list[str] = []
    waiting = [tree]
    while waiting and len(found) <= limit:
        node = waiting.pop()
        if node.object_id not in found:
            found.append(node.object_id)
        waiting += node.children
    return found[::-1]


def _node(node: int) -> Any:
    return d.Node(node_id=node)

"""What a phone is asked, and its answers: Flower messages, read and built."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from google.protobuf.message import DecodeError

from pocketfed.core.errors import MalformedObject
from pocketfed.mobile_client.flower import descriptors as d
from pocketfed.mobile_client.flower.objects import (
    MESSAGE,
    Object,
    Records,
    object_id,
    read_records,
    write_object,
    write_records,
)

SERVER = 1
"""The server's node id, in every federation."""

MAX_REASON = 500
"""Characters of an error's reason that are sent."""

MARGIN = 10.0
"""Seconds before its expiry at which work on a message must stop; a tenth of its life if that is less."""


@dataclass(frozen=True)
class Task:
    """One question to a phone.

    Attributes:
        kind: `train`, `query` or another of Flower's message types.
        records: what it came with.
        until: when work must stop for the answer to be in time; seconds since 1970 by this phone's clock.
    """

    kind: str
    records: Records
    until: float


Handle: TypeAlias = Callable[[Task], Records]
"""Answers a task with records, or raises: `Declined` for a no, any other error for a failure."""


@dataclass(frozen=True)
class Failure:
    """An answer without records.

    Attributes:
        code: `FAILED` or `DECLINED` of `core.wire`.
        reason: for people, who read it in the server's report.
    """

    code: int
    reason: str


@dataclass(frozen=True)
class Question:
    """A message as `pull-messages` delivered it: everything but its records.

    Attributes:
        metadata: of the message.
        tree: ids of its objects.
    """

    metadata: Any
    tree: Any

    @classmethod
    def read(cls, head: bytes) -> "Question | None":
        """The message in a `PullMessagesResponse`, None if there is none.

        Raises:
            MalformedObject: it is no such response, or names its message and its objects differently.
        """
        try:
            response = d.PullMessagesResponse.FromString(head)
        except DecodeError as error:
            raise MalformedObject("a pulled message is no protobuf") from error
        if not response.messages_list:
            return None
        if not response.message_object_trees:
            raise MalformedObject("a pulled message has no tree of objects")
        question = cls(response.messages_list[0].metadata, response.message_object_trees[0])
        if question.metadata.message_id != question.tree.object_id:
            raise MalformedObject("a pulled message and its tree of objects have different ids")
        return question

    @property
    def expires(self) -> float:
        """When the server stops waiting for the answer; seconds since 1970 by its clock."""
        return float(self.metadata.created_at + self.metadata.ttl)

    @property
    def deadline(self) -> float:
        """When work on it must stop; seconds since 1970 by the server's clock."""
        return self.expires - min(MARGIN, 0.1 * float(self.metadata.ttl))

    def records(self, objects: Mapping[str, bytes]) -> Records:
        """The records, from all objects of the tree but its root.

        Raises:
            MalformedObject: the objects are not those of a message with records.
        """
        if len(self.tree.children) != 1:
            raise MalformedObject("a pulled message has no records")
        return read_records(self.tree.children[0].object_id, objects)


@dataclass(frozen=True)
class Answer:
    """An answer, whole: nothing of it depends on anything that could still change.

    Attributes:
        request: `PushMessagesRequest`.
        objects: contents, children first.
    """

    request: bytes
    objects: tuple[bytes, ...]


def build_answer(
    question: Question, node: int, now: float, seconds: float, content: Records | Failure
) -> Answer:
    """The answer to a question.

    Args:
        question: that it answers.
        node: this phone.
        now: seconds since 1970 by the server's clock, before the question expires.
        seconds: that the work took, for the server's statistics.
        content: what to say.
    """
    asked = question.metadata
    metadata = d.Metadata(
        run_id=asked.run_id,
        src_node_id=node,
        dst_node_id=SERVER,
        reply_to_message_id=asked.message_id,
        group_id=asked.group_id,
        ttl=question.expires - now,
        message_type=asked.message_type,
        created_at=now,
        dst_task_id=asked.src_task_id if asked.HasField("src_task_id") else None,
    )
    message = d.Message(metadata=metadata)
    objects: dict[str, bytes] = {}
    children: tuple[str, ...] = ()
    trees: list[Any] = []
    if isinstance(content, Failure):
        message.error.code, message.error.reason = content.code, content.reason[:MAX_REASON]
    else:
        root, objects = write_records(content)
        children = (root,)
        leaves = [d.ObjectTree(object_id=name) for name in objects if name != root]
        trees = [d.ObjectTree(object_id=root, children=leaves)]
    # The object has neither id nor records, since its id is its hash; what is pushed has the id, and records that are
    # present and empty.
    body = write_object(Object(MESSAGE, children, message.SerializeToString(deterministic=True)))
    message.metadata.message_id = object_id(body)
    if not isinstance(content, Failure):
        message.content.SetInParent()
    request = d.PushMessagesRequest(
        node=d.Node(node_id=node),
        messages_list=[message],
        message_object_trees=[d.ObjectTree(object_id=object_id(body), children=trees)],
        clientapp_runtime_list=[seconds],
    )
    return Answer(request.SerializeToString(deterministic=True), (*objects.values(), body))


def read_answer(request: bytes) -> Any:
    """The metadata of the message in an answer's `PushMessagesRequest`.

    Raises:
        MalformedObject: there is none.
    """
    try:
        return d.PushMessagesRequest.FromString(request).messages_list[0].metadata
    except (DecodeError, IndexError) as error:
        raise MalformedObject("an answer cannot be read") from error

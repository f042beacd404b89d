"""Records as Flower messages. Each message has one record: the server's cost follows the number of objects."""

import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from flwr.app import ConfigRecord, Error, Message, MessageType, RecordDict

from pocketfed.core.errors import UpdateRejected
from pocketfed.core.part import Part
from pocketfed.core.plan import Instruction, PhoneStatus, Plan, Update
from pocketfed.core.travel import Travel
from pocketfed.core.wire import (
    FAILED,
    FOLD,
    INSTRUCTION,
    STATUS,
    UPDATE,
    Value,
    instruction_items,
    read_instruction,
    read_part,
    read_status,
    read_update,
    status_items,
    update_items,
)

T = TypeVar("T")

GONE = frozenset({3, 4, 5})
"""Flower's codes for answers that it makes up itself: the message expired, or the phone went away."""


def pack_instruction(plan: Plan, weights: bytes, layout: str, travel: Travel | None = None) -> RecordDict:
    """The content of a message that asks a phone to train, see `instruction_items`; one for a whole cohort."""
    return _content(INSTRUCTION, instruction_items(plan, weights, layout, travel))


def unpack_instruction(message: Message) -> Instruction:
    """The inverse of `pack_instruction`, on a phone that is a Flower `ClientApp`."""
    return read_instruction(_record(message, INSTRUCTION))


def pack_update(update: Update) -> RecordDict:
    """An update as the content of a reply."""
    return _content(UPDATE, update_items(update))


def unpack_update(reply: Message) -> Update:
    """What a phone answered.

    Raises:
        UpdateRejected: the phone reported an error, or the reply is not what `pack_update` makes.
    """
    return _read(reply, UPDATE, read_update)


def brings_fold(reply: Message) -> bool:
    """Whether an answer brings a fold of updates, as an edge server's does, and not an update."""
    return reply.has_content() and FOLD in reply.content


def unpack_part(reply: Message) -> Part:
    """What an edge server answered.

    Raises:
        UpdateRejected: it reported an error, or the reply is not what `core.wire.part_items` makes.
    """
    return _read(reply, FOLD, read_part)


def ask_status(node: int, ttl: float | None = None) -> Message:
    """A message that asks a node who it is; it expires after `ttl` seconds."""
    return Message(RecordDict(), dst_node_id=node, message_type=MessageType.QUERY, ttl=ttl)


def introduce(message: Message, status: PhoneStatus) -> Message:
    """A phone's answer to `ask_status`."""
    return Message(_content(STATUS, status_items(status)), reply_to=message)


def unpack_status(reply: Message) -> PhoneStatus:
    """The answer to `ask_status`.

    Raises:
        UpdateRejected: the phone reported an error, or the reply is not what `introduce` makes.
    """
    return _read(reply, STATUS, read_status)


def failure(message: Message, reason: str, code: int = FAILED) -> Message:
    """A phone's answer that it could not, or would not, do what it was asked."""
    return Message(Error(code, reason), reply_to=message)


def is_gone(reply: Message) -> bool:
    """Whether a reply is none of the node's: Flower puts it where a node went, or a message expired."""
    return reply.has_error() and reply.error.code in GONE


def has_expired(message: Message) -> bool:
    """Whether its time to be answered is over."""
    return message.metadata.created_at + message.metadata.ttl < time.time()


def _content(name: str, items: dict[str, Value]) -> RecordDict:
    values: dict[str, Any] = dict(items)  # Flower's own type of a record's values has lists too
    return RecordDict({name: ConfigRecord(values)})


def _read(reply: Message, name: str, decode: Callable[[Mapping[str, Any]], T]) -> T:
    if reply.has_error():
        raise UpdateRejected(reply.error.reason or f"error {reply.error.code}")
    try:
        return decode(_record(reply, name))
    # Anything may be in a message from outside, and Flower's decoding raises whatever its parts raise.
    except Exception as error:
        what = f"{type(error).__name__}: {error}"[:300]
        raise UpdateRejected(f"the reply cannot be read ({what})") from error


def _record(message: Message, name: str) -> Any:
    record = message.content[name]
    if not isinstance(record, ConfigRecord):
        raise TypeError(f"{name} is of the wrong type")
    return record

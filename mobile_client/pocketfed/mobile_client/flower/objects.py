"""Objects: the content-addressed pieces that a Flower message is moved in.

    <class> <id of child>,<id of child>,... <length of body>\\0<body>

An object's id is the SHA-256 of all of it, in lower-case hex. A message here has at most three: the message itself, the
dictionary of its records, and one record. What is read comes from outside: everything is bounded, and anything
unexpected is `MalformedObject`.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from google.protobuf.message import DecodeError

from pocketfed.core.errors import MalformedObject
from pocketfed.core.parsing import parse_json
from pocketfed.core.wire import Items, Value
from pocketfed.mobile_client.flower.descriptors import ConfigRecord, ConfigRecordItem, ConfigRecordValue

Records: TypeAlias = Mapping[str, Items]
"""A message's content: records by name."""

MESSAGE, RECORD_DICT, CONFIG_RECORD = "Message", "RecordDict", "ConfigRecord"

MAX_CHILDREN = 16
MAX_ITEMS = 1000
"""Entries of a record."""

MAX_DICT = 16_384
"""Bytes of a dictionary of records, which holds names and ids only."""

INT64 = 2**63

_HEAD = re.compile(rb"([A-Za-z]{1,32}) ((?:[0-9a-f]{64}(?:,[0-9a-f]{64})*)?) (0|[1-9][0-9]{0,12})")
_LONGEST_HEAD = 32 + 1 + 65 * MAX_CHILDREN + 1 + 13


@dataclass(frozen=True)
class Object:
    """One object, taken apart.

    Attributes:
        kind: name of its class.
        children: ids of other objects, each once.
        body: the rest.
    """

    kind: str
    children: tuple[str, ...]
    body: bytes


def object_id(content: bytes) -> str:
    """The id of an object with this content."""
    return hashlib.sha256(content).hexdigest()


def write_object(item: Object) -> bytes:
    """The content of an object."""
    return f"{item.kind} {','.join(item.children)} {len(item.body)}".encode() + b"\0" + item.body


def read_object(content: bytes, kind: str) -> Object:
    """The inverse of `write_object`.

    Raises:
        MalformedObject: it is no object of this kind.
    """
    end = content.find(b"\0", 0, _LONGEST_HEAD + 1)
    match = _HEAD.fullmatch(content, 0, end) if end > 0 else None
    if match is None:
        raise MalformedObject(f"bytes that should be a {kind} have no head of an object")
    found, children, length = (group.decode() for group in match.groups())
    if found != kind:
        raise MalformedObject(f"an object is a {found}, expected a {kind}")
    body = content[end + 1 :]
    if len(body) != int(length):
        raise MalformedObject(f"a {kind} has {len(body)} bytes, its head says {length}")
    return Object(found, tuple(children.split(",")) if children else (), body)


def write_records(records: Records) -> tuple[str, dict[str, bytes]]:
    """Records as objects.

    Returns:
        The id of their dictionary, and all objects by id, children first.
    """
    objects: dict[str, bytes] = {}
    ids: dict[str, str] = {}
    for name, items in records.items():
        content = write_object(Object(CONFIG_RECORD, (), _write_items(items)))
        ids[name] = object_id(content)
        objects[ids[name]] = content
    body = json.dumps(ids).encode()  # spaced as Flower spaces it, so that equal dictionaries have equal ids
    root = write_object(Object(RECORD_DICT, tuple(dict.fromkeys(ids.values())), body))
    return object_id(root), {**objects, object_id(root): root}


def read_records(root: str, objects: Mapping[str, bytes]) -> dict[str, dict[str, Value]]:
    """The inverse of `write_records`.

    Args:
        root: id of the dictionary.
        objects: by id; each must have the content that its id says.

    Raises:
        MalformedObject: an object is missing, is not what its id or its parent says, or is out of bounds.
    """
    parent = read_object(_checked(root, objects), RECORD_DICT)
    if len(parent.body) > MAX_DICT:
        raise MalformedObject(f"a dictionary of records has {len(parent.body)} bytes")
    try:
        ids = parse_json(parent.body)
    except ValueError as error:
        raise MalformedObject("a dictionary of records is no JSON") from error
    if not isinstance(ids, dict) or set(map(str, ids.values())) != set(parent.children):
        raise MalformedObject("a dictionary of records does not name its children")
    return {name: _read_items(_checked(child, objects)) for name, child in ids.items()}


EMPTY_RECORDS = write_records({})
"""What a message without records consists of; it need not be pulled to be known."""


def _checked(name: str, objects: Mapping[str, bytes]) -> bytes:
    content = objects.get(name)
    if content is None:
        raise MalformedObject(f"the object {name[:12]} is missing")
    if object_id(content) != name:
        raise MalformedObject(f"the object {name[:12]} has another content than its id says")
    return content


def _write_items(items: Items) -> bytes:
    record = ConfigRecord(
        items=[ConfigRecordItem(key=name, value=_write_value(value)) for name, value in items.items()]
    )
    return bytes(record.SerializeToString(deterministic=True))


def _write_value(value: Value) -> object:
    match value:
        case bool():
            return ConfigRecordValue(bool=value)
        case int():  # as Flower does: unsigned only where signed does not reach
            return ConfigRecordValue(sint64=value) if value < INT64 else ConfigRecordValue(uint64=value)
        case float():
            return ConfigRecordValue(double=value)
        case str():
            return ConfigRecordValue(string=value)
        case bytes():
            return ConfigRecordValue(bytes=value)


def _read_items(content: bytes) -> dict[str, Value]:
    body = read_object(content, CONFIG_RECORD).body
    try:
        record = ConfigRecord.FromString(body)
    except DecodeError as error:
        raise MalformedObject("a record is no protobuf") from error
    if len(record.items) > MAX_ITEMS:
        raise MalformedObject(f"a record has {len(record.items)} entries, at most {MAX_ITEMS} are read")
    items: dict[str, Value] = {}
    for item in record.items:
        field = item.value.WhichOneof("value")
        if field is None or field.endswith("_list"):
            raise MalformedObject(f"the entry {item.key[:40]!r} of a record is no number, string or bytes")
        items[item.key] = getattr(item.value, field)
    return items

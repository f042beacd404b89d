"""Objects that every client must refuse."""

import json

from golden.encoding import b64
from pocketfed.mobile_client.flower import descriptors as d
from pocketfed.mobile_client.flower.objects import (
    MAX_CHILDREN,
    MAX_ITEMS,
    Object,
    object_id,
    write_object,
    write_records,
)


def malformed() -> list[dict[str, str]]:
    """Each with the class that it is taken for."""
    record = write_records({"a": {"x": 1}})[1]
    good, dictionary = record.values()
    children = ",".join(["0" * 64] * (MAX_CHILDREN + 1))
    many = d.ConfigRecord(items=[d.ConfigRecordItem(key=str(i)) for i in range(MAX_ITEMS + 1)])
    lists = d.ConfigRecord(items=[d.ConfigRecordItem(key="x")])
    lists.items[0].value.sint_list.vals.append(1)
    cases = {
        "empty": ("ConfigRecord", b""),
        "without a head": ("ConfigRecord", good.partition(b"\0")[2]),
        "of another class": ("ConfigRecord", dictionary),
        "cut short": ("ConfigRecord", good[:-1]),
        "too long": ("ConfigRecord", good + b"x"),
        "one space only": ("ConfigRecord", b"ConfigRecord 0\0"),
        "length with a sign": ("ConfigRecord", b"ConfigRecord  +0\0"),
        "length with a leading zero": ("ConfigRecord", b"ConfigRecord  00\0"),
        "child that is no id": ("RecordDict", b"RecordDict abc 2\0{}"),
        "too many children": ("RecordDict", f"RecordDict {children} 2\0{{}}".encode()),
        "record that is no protobuf": ("ConfigRecord", write_object(Object("ConfigRecord", (), b"\xff\xff"))),
        "record with a list": (
            "ConfigRecord",
            write_object(Object("ConfigRecord", (), lists.SerializeToString())),
        ),
        "record with an entry without value": (
            "ConfigRecord",
            write_object(Object("ConfigRecord", (), b"\x0a\x03\x0a\x01x")),
        ),
        "record with too many entries": (
            "ConfigRecord",
            write_object(Object("ConfigRecord", (), many.SerializeToString())),
        ),
        "dictionary that is no JSON": ("RecordDict", b"RecordDict  1\0{"),
        "dictionary that is a list": ("RecordDict", b"RecordDict  2\0[]"),
        "dictionary that names no child of its own": (
            "RecordDict",
            write_object(Object("RecordDict", (), json.dumps({"a": object_id(good)}).encode())),
        ),
    }
    return [{"name": name, "kind": kind, "content": b64(content)} for name, (kind, content) in cases.items()]

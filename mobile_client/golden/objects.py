"""Records as objects."""

from typing import Any

from golden.encoding import b64, typed
from golden.sample import INSTRUCTION, ODD, SMALL, STATUS, UPDATE
from pocketfed.mobile_client.flower.objects import Records, object_id, write_records


def objects() -> list[dict[str, Any]]:
    """Records of every kind, and the objects that they become."""
    cases: dict[str, Records] = {
        "no records": {},
        "an instruction": {"instruction": INSTRUCTION},
        "an instruction for small updates": {"instruction": SMALL},
        "an update": {"update": UPDATE},
        "a small update": {"update": {**UPDATE, "format": "int8", "weights": bytes.fromhex("0000003f7f81")}},
        "a status": {"status": STATUS},
        "an empty record": {"nothing": {}},
        "two equal records, stored once": {"a": {"x": 1}, "b": {"x": 1}},
        "extreme values": {"odd": ODD},
    }
    return [_records_case(name, records) for name, records in cases.items()]


def _records_case(name: str, records: Records) -> dict[str, Any]:
    root, contents = write_records(records)
    return {
        "name": name,
        "records": typed(records),
        "root": root,
        "objects": [{"id": object_id(c), "content": b64(c)} for c in contents.values()],
    }

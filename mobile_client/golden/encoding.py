"""How the golden vectors say values in JSON."""

import base64
from typing import Any

from google.protobuf.json_format import MessageToDict

from pocketfed.core.wire import Value
from pocketfed.mobile_client.flower.objects import Records


def typed(records: Records) -> dict[str, Any]:
    """Records with each value under the name of its protobuf field; 64-bit integers are strings, bytes base64."""
    return {name: {key: _typed(value) for key, value in items.items()} for name, items in records.items()}


def _typed(value: Value) -> dict[str, Any]:
    match value:
        case bool():
            return {"bool": value}
        case int():
            return {"sint64" if value < 2**63 else "uint64": str(value)}
        case float():
            return {"double": value}
        case str():
            return {"string": value}
        case bytes():
            return {"bytes": b64(value)}


def untyped(records: dict[str, Any]) -> dict[str, dict[str, Value]]:
    """The inverse of `typed`."""
    read: dict[str, Any] = {
        "bool": bool, "sint64": int, "uint64": int, "double": float, "string": str, "bytes": base64.b64decode,
    }  # fmt: skip
    return {
        name: {key: read[kind](value) for key, typed in items.items() for kind, value in typed.items()}
        for name, items in records.items()
    }


def fields(message: Any) -> Any:
    """A message as protobuf's JSON, with the names of the `.proto` files."""
    return MessageToDict(message, preserving_proto_field_name=True)


def b64(content: bytes) -> str:
    """Base64."""
    return base64.b64encode(content).decode()

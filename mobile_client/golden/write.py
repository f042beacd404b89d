"""Write the golden wire vectors: what a phone's client in any language must send, read and refuse, byte by byte.

    python mobile_client/golden/write.py

The key, the times and the ids are fixed. docs/phone.md says how to use the files.
"""

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from google.protobuf.json_format import MessageToDict

from pocketfed.core.formats import Format, Packed, decode, encode
from pocketfed.core.layout import Layout, Role, Slice
from pocketfed.core.wire import DECLINED, FAILED, Value, weights_to_bytes
from pocketfed.mobile_client.flower import descriptors as d
from pocketfed.mobile_client.flower.key import SIGNATURE, PhoneKey
from pocketfed.mobile_client.flower.objects import (
    MAX_CHILDREN,
    MAX_ITEMS,
    Object,
    Records,
    object_id,
    write_object,
    write_records,
)
from pocketfed.mobile_client.flower.task import Failure, Question, build_answer

FOLDER = Path(__file__).resolve().parent

PRIVATE_KEY = """\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgAAAAAAAAAAAAAAcG
9ja2V0ZmVkAAAAAAAAAAAAAAMDmhRANCAASg2Xx1QzrUg61tct0VKPTwywTV/e40
vXxCQiWLDVS+Ej3F2FJaJIug2OR4FK8OGDi/bdIT0IV1enP1TwJcV+sM
-----END PRIVATE KEY-----
"""
"""For tests only: it is public."""

NODE, RUN, TASK = 0x1122334455667788, 0xFFEEDDCCBBAA9988, 77
CREATED, TTL, NOW, SECONDS = 1767225600.0, 300.0, 1767225660.25, 12.5
GROUP = "3"

WEIGHTS = bytes.fromhex("0000803f000000c00000003f00008040")
"""1, -2, 0.5 and 4 as little-endian float32."""

LAYOUT, BUNDLE = "5f" * 32, "b7" * 32
INSTRUCTION: dict[str, Value] = {
    "round": 3, "seed": 2**63 + 5, "mixed": 0, "layout": LAYOUT, "epochs-photo": 1, "epochs-sound": 2,
    "learning_rate": 0.03, "momentum": 0.9, "weight_decay": 5e-4, "proximal": 0.0, "temperature": 0.3,
    "second_momentum": 0.999, "epsilon": 1e-8, "format": "float32", "weights": WEIGHTS,
}  # fmt: skip
UPDATE: dict[str, Value] = {
    "round": 3, "layout": LAYOUT, "examples": 42, "seen-photo": 42, "loss-photo": 1.25, "bundle": BUNDLE,
    "format": "float32", "weights": WEIGHTS[::-1],
}  # fmt: skip
SMALL: dict[str, Value] = {
    **{key: value for key, value in INSTRUCTION.items() if key not in ("format", "weights")},
    "travels": "backbone,buffer", "update-format": "int8", "blend": "fedema", "blend-tau": 0.7,
    "blend-threshold": 0.4, "format": "float16", "weights": bytes.fromhex("0000803f003c00c0"),
}  # fmt: skip
"""An instruction in which all that is optional is said."""

STATUS: dict[str, Value] = {
    "phone": 2**47 + 1, "captures-photo": 42, "free-memory": 2**31, "charging": 1, "app-version": "0.1.0 — α",
    "layout": LAYOUT, "bundle": BUNDLE,
}  # fmt: skip
ODD: dict[str, Value] = {"": 0, "negative": -(2**63), "true": True, "empty": b"", "text": "", "tiny": 5e-324}


def vectors() -> dict[str, Any]:
    """The content of every file, by name."""
    return {
        "key.json": _key(),
        "objects.json": _objects(),
        "malformed.json": _malformed(),
        "calls.json": _calls(),
        "formats.json": _formats(),
        "answers.json": [_answer(*case) for case in _answer_cases()],
        "errors.json": _errors(),
    }


def key() -> PhoneKey:
    """The key of all vectors."""
    private: Any = load_pem_private_key(PRIVATE_KEY.encode(), None)
    return PhoneKey(private)


def _key() -> dict[str, Any]:
    own = key()
    return {
        "private_pem": PRIVATE_KEY,
        "public_pem": own.public_pem.decode(),
        "public_openssh": own.public_openssh,
        "number": own.number,
        "now": NOW,
        "headers": own.headers(NOW),  # the signature is one of many that verify
    }


def _objects() -> list[dict[str, Any]]:
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
    root, objects = write_records(records)
    return {
        "name": name,
        "records": typed(records),
        "root": root,
        "objects": [{"id": object_id(c), "content": b64(c)} for c in objects.values()],
    }


def _formats() -> dict[str, Any]:
    """A layout, its part without projector, and numbers as each format writes them."""
    shapes = [("backbone.w", (2, 3), Role.BACKBONE), ("backbone.b", (2,), Role.BACKBONE),
              ("projector.w", (4,), Role.PROJECTOR), ("backbone.norm.running_var", (2,), Role.BUFFER)]  # fmt: skip
    slices, offset = [], 0
    for name, shape, role in shapes:
        slices.append(Slice(name, shape, role, offset))
        offset += slices[-1].size
    whole, roles = Layout(tuple(slices)), (Role.BACKBONE, Role.BUFFER)
    layout = whole.part(roles)
    numbers = np.array([1, -2, 0.5, 1e-3, -1.27, 2.54, 0, 0, 0.25, 3e-6], dtype=np.float32)
    uniform = np.linspace(0, 0.875, 8, dtype=np.float32)
    cases = []
    for form in Format:
        content = encode(numbers, layout, form, uniform)
        decoded = decode(Packed(form, content), layout)
        cases.append({"format": form, "content": b64(content), "decoded": b64(weights_to_bytes(decoded))})
    return {
        "layout": whole.to_json(),
        "layout_digest": whole.digest,
        "travels": ",".join(roles),
        "part": layout.to_json(),
        "part_digest": layout.digest,
        "numbers": b64(weights_to_bytes(numbers)),
        "uniform": b64(weights_to_bytes(uniform)),
        "cases": cases,
    }


def _malformed() -> list[dict[str, str]]:
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


def question(kind: str, records: Records, task: int | None = TASK) -> tuple[Any, dict[str, bytes]]:
    """A message as `pull-messages` delivers it, and its objects."""
    root, objects = write_records(records)
    metadata = d.Metadata(
        run_id=RUN, src_node_id=1, dst_node_id=NODE, group_id=GROUP, ttl=TTL, message_type=kind, created_at=CREATED,
        src_task_id=task,
    )  # fmt: skip
    body = d.Message(metadata=metadata).SerializeToString(deterministic=True)
    content = write_object(Object("Message", (root,), body))
    metadata.message_id = object_id(content)
    leaves = [d.ObjectTree(object_id=name) for name in objects if name != root]
    tree = d.ObjectTree(
        object_id=object_id(content), children=[d.ObjectTree(object_id=root, children=leaves)]
    )
    message = d.Message(metadata=metadata)
    message.content.SetInParent()
    response = d.PullMessagesResponse(messages_list=[message], message_object_trees=[tree])
    return response, objects


def _answer_cases() -> list[tuple[str, str, Records, Records | Failure, int | None]]:
    train: Records = {"instruction": INSTRUCTION}
    return [
        ("an update", "train", train, {"update": UPDATE}, TASK),
        ("a status; the question has no records", "query", {}, {"status": STATUS}, TASK),
        ("declined", "train", train, Failure(DECLINED, "not charging"), TASK),
        ("failed", "train", train, Failure(FAILED, "the program failed — α"), TASK),
        ("a question without a task", "train", train, {"update": UPDATE}, None),
    ]


def _answer(
    name: str, kind: str, records: Records, content: Records | Failure, task: int | None
) -> dict[str, Any]:
    asked, _ = question(kind, records, task)
    head = asked.SerializeToString(deterministic=True)
    read = Question.read(head)
    assert read is not None
    answer = build_answer(read, NODE, NOW, SECONDS, content)
    said: dict[str, Any] = (
        {"error": {"code": content.code, "reason": content.reason}}
        if isinstance(content, Failure)
        else {"records": typed(content)}
    )
    return {
        "name": name,
        "question": b64(head),
        "node": str(NODE),
        "now": NOW,
        "seconds": SECONDS,
        **said,
        "push_messages": b64(answer.request),
        "objects": [{"id": object_id(c), "content": b64(c)} for c in answer.objects],
    }


def _calls() -> list[dict[str, Any]]:
    own, node = key(), d.Node(node_id=NODE)
    asked, objects = question("train", {"instruction": INSTRUCTION})
    root = asked.message_object_trees[0].children[0].object_id
    message = asked.messages_list[0].metadata.message_id
    read = Question.read(asked.SerializeToString())
    assert read is not None
    answer = build_answer(read, NODE, NOW, SECONDS, {"update": UPDATE})
    ids = [object_id(content) for content in answer.objects]
    push = d.PushMessagesRequest.FromString(answer.request)
    results = {ids[-1]: 0}
    session = "6f1d1f0e"
    cases: list[tuple[str, str, Any, Any]] = [
        ("the key is made known", "register-node", d.RegisterNodeRequest(public_key=own.public_pem),
         d.RegisterNodeResponse(node_id=NODE)),
        ("the phone goes online", "activate-node",
         d.ActivateNodeRequest(public_key=own.public_pem, heartbeat_interval=60.0),
         d.ActivateNodeResponse(node_id=NODE)),
        ("the phone stays online", "send-node-heartbeat",
         d.HeartbeatRequest(node=node, heartbeat_interval=60.0), d.HeartbeatResponse(success=True)),
        ("the node was removed", "send-node-heartbeat",
         d.HeartbeatRequest(node=node, heartbeat_interval=60.0), d.HeartbeatResponse()),
        ("there is nothing to do", "pull-messages", d.PullMessagesRequest(node=node), d.PullMessagesResponse()),
        ("there is a message", "pull-messages", d.PullMessagesRequest(node=node), asked),
        ("an object", "pull-object", d.PullObjectRequest(node=node, run_id=RUN, object_id=root),
         d.PullObjectResponse(object_found=True, object_available=True, object_content=objects[root])),
        ("an object that is not there yet", "pull-object",
         d.PullObjectRequest(node=node, run_id=RUN, object_id=root), d.PullObjectResponse(object_found=True)),
        ("an object that nobody knows", "pull-object",
         d.PullObjectRequest(node=node, run_id=RUN, object_id=root), d.PullObjectResponse()),
        ("the message is here", "confirm-message-received",
         d.ConfirmRequest(node=node, run_id=RUN, message_object_id=message), d.ConfirmResponse()),
        ("the answer is taken", "push-messages", push,
         d.PushMessagesResponse(results=results, objects_to_push=ids, session_id=session,
                                reconnect={"reconnect": 5})),
        ("the answer is rejected, or has arrived before", "push-messages", push,
         d.PushMessagesResponse(results=results, session_id=session, reconnect={"reconnect": 5})),
        ("an object of the answer", "push-object",
         d.PushObjectRequest(node=node, run_id=RUN, object_id=ids[0], object_content=answer.objects[0],
                             session_id=session), d.PushObjectResponse(stored=True)),
        ("an object that is not stored", "push-object",
         d.PushObjectRequest(node=node, run_id=RUN, object_id=ids[0], object_content=answer.objects[0],
                             session_id="expired"), d.PushObjectResponse()),
    ]  # fmt: skip
    return [
        {
            "name": name,
            "path": f"/v1/fleet/{path}",
            "request": fields(request),
            "request_bytes": b64(request.SerializeToString(deterministic=True)),
            "response": fields(response),
            "response_bytes": b64(response.SerializeToString(deterministic=True)),
        }
        for name, path, request, response in cases
    ]


def _errors() -> list[dict[str, Any]]:
    """Answers of HTTP status 400 and more, as Flower sends them, and what a phone does."""

    def case(status: int, body: Any, meaning: str) -> dict[str, Any]:
        return {"status": status, "body": json.dumps(body), "code": body.get("code", 0), "meaning": meaning}

    return [
        case(
            401,
            {"detail": "Invalid SuperNode authentication"},
            "the clock is off (compare the header Date, sign again by it), else the server does not know the "
            "node: join anew",
        ),
        case(
            412,
            {"code": 2004, "detail": "Failed to activate SuperNode."},
            "still online: a heartbeat with the remembered node id is enough; else the key is not known: register",
        ),
        case(
            412,
            {
                "code": 2001,
                "detail": "SuperNode authentication is enabled. All SuperNodes must be registered via the CLI.",
            },
            "somebody must enrol this phone",
        ),
        case(412, {"code": 23, "detail": "Public key already in use."}, "registered already: activate"),
        case(
            403,
            {"code": 2007, "detail": "The current run status does not allow this Fleet API operation."},
            "the run is over: drop the message",
        ),
        case(400, {"code": 2003, "detail": "Invalid heartbeat interval."}, "10 to 1800 seconds"),
    ]


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


def text(values: Any) -> str:
    """The text of a file."""
    return json.dumps(values, indent=1, ensure_ascii=False) + "\n"


def _keep_signature(values: dict[str, Any]) -> None:
    """Signatures are random: keep the one that is there, unless what it signs has changed."""
    path = FOLDER / "key.json"
    if path.exists():
        old = json.loads(path.read_text())
        if {**old["headers"], SIGNATURE: ""} == {**values["headers"], SIGNATURE: ""}:
            values["headers"] = old["headers"]


if __name__ == "__main__":
    files = vectors()
    _keep_signature(files["key.json"])
    for name, values in files.items():
        (FOLDER / name).write_text(text(values))
        print(f"{name}: {len(text(values))} bytes")

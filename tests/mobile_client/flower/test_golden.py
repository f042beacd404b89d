"""The golden vectors hold for this client and, independently of it, for Flower's own classes."""

import base64
import hashlib
import json
import math
import re
import struct
from datetime import datetime
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.common.serde import message_from_proto
from flwr.proto import fleet_pb2, heartbeat_pb2, message_pb2
from flwr.supercore.error import FlowerError
from flwr.supercore.inflatable.inflatable_utils import validate_object_content
from flwr.supercore.primitives.asymmetric import bytes_to_public_key, verify_signature
from google.protobuf.json_format import MessageToDict, ParseDict

from golden.encoding import untyped
from golden.sample import SMALL, STATUS, UPDATE
from pocketfed.core.errors import MalformedObject
from pocketfed.core.hyper import HYPER
from pocketfed.core.wire import read_instruction, read_status, read_update
from pocketfed.mobile_client.flower.calls import _read_error
from pocketfed.mobile_client.flower.key import PUBLIC_KEY, SIGNATURE, TIMESTAMP
from pocketfed.mobile_client.flower.objects import object_id, read_object, read_records, write_records
from pocketfed.mobile_client.flower.task import Failure, Question, build_answer
from tests.conftest import REPOSITORY
from tests.mobile_client.flower.scripts import load_script

SCRIPT = load_script("mobile_client/golden/write.py")
FILES: dict[str, Any] = {path.name: json.loads(path.read_text()) for path in SCRIPT.FOLDER.glob("*.json")}

THEIRS: dict[str, tuple[Any, Any]] = {
    "register-node": (fleet_pb2.RegisterNodeFleetRequest, fleet_pb2.RegisterNodeFleetResponse),
    "activate-node": (fleet_pb2.ActivateNodeRequest, fleet_pb2.ActivateNodeResponse),
    "send-node-heartbeat": (heartbeat_pb2.SendNodeHeartbeatRequest, heartbeat_pb2.SendNodeHeartbeatResponse),
    "pull-messages": (fleet_pb2.PullMessagesRequest, fleet_pb2.PullMessagesResponse),
    "pull-object": (message_pb2.PullObjectRequest, message_pb2.PullObjectResponse),
    "confirm-message-received": (
        message_pb2.ConfirmMessageReceivedRequest,
        message_pb2.ConfirmMessageReceivedResponse,
    ),
    "push-messages": (fleet_pb2.PushMessagesRequest, fleet_pb2.PushMessagesResponse),
    "push-object": (message_pb2.PushObjectRequest, message_pb2.PushObjectResponse),
}


def name(case: dict[str, Any]) -> str:
    return str(case["name"])


def decoded(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


@pytest.mark.parametrize("file", FILES)
def test_this_client_makes_the_files(file: str) -> None:
    made = SCRIPT.vectors()[file]
    if file == "key.json":
        made["headers"][SIGNATURE] = FILES[file]["headers"][SIGNATURE]
    assert FILES[file] == json.loads(SCRIPT.text(made)), "run mobile_client/golden/write.py"
    assert set(FILES) == set(SCRIPT.vectors())


def test_flower_accepts_the_signed_headers() -> None:
    key, headers = FILES["key.json"], FILES["key.json"]["headers"]
    public = decoded(headers[PUBLIC_KEY])
    assert public.decode() == key["public_pem"]
    timestamp = headers[TIMESTAMP]
    assert datetime.fromisoformat(timestamp).timestamp() == key["now"]
    theirs = bytes_to_public_key(public)
    assert isinstance(theirs.curve, ec.SECP256R1)
    assert verify_signature(theirs, timestamp.encode("ascii"), decoded(headers[SIGNATURE]))
    assert not verify_signature(theirs, b"2026", decoded(headers[SIGNATURE]))


@pytest.mark.parametrize("case", FILES["objects.json"], ids=name)
def test_records_are_the_same_objects_in_flower(case: dict[str, Any]) -> None:
    records: Any = untyped(case["records"])
    objects = {item["id"]: decoded(item["content"]) for item in case["objects"]}
    assert write_records(records) == (case["root"], objects)
    assert read_records(case["root"], objects) == records
    theirs = RecordDict({key: ConfigRecord(items) for key, items in records.items()})
    assert theirs.object_id == case["root"]
    assert theirs.deflate() == objects[case["root"]]
    for record in theirs.values():
        assert objects[record.object_id] == record.deflate()
    for content in objects.values():
        validate_object_content(content)


@pytest.mark.parametrize("case", FILES["formats.json"]["cases"], ids=lambda case: case["format"])
def test_numbers_are_written_as_the_page_says(case: dict[str, Any]) -> None:
    """By struct alone: what a client in another language would write."""
    file = FILES["formats.json"]
    numbers, uniform, found = (
        struct.unpack(f"<{len(decoded(text)) // 4}f", decoded(text))
        for text in (file["numbers"], file["uniform"], case["decoded"])
    )
    trained, buffers = numbers[:8], numbers[8:]
    match case["format"]:
        case "float32":
            expected = struct.pack("<10f", *numbers)
        case "float16":
            expected = struct.pack("<2f", *buffers) + struct.pack("<8e", *trained)
        case _:
            slices, power = (trained[:6], trained[6:]), 2.0 ** (math.frexp(max(map(abs, buffers)))[1] - 15)
            scales = struct.pack("<2f", *(max(map(abs, part)) / 127 for part in slices))
            steps = [
                scale for scale, part in zip(struct.unpack("<2f", scales), slices, strict=True) for _ in part
            ]
            levels = [
                math.floor(x / step + u) if step else 0
                for x, step, u in zip(trained, steps, uniform, strict=True)
            ]
            halves = struct.pack("<2e", *(x / power for x in buffers))
            expected = scales + struct.pack("<f", power) + halves + struct.pack("<8b", *levels)
            assert 2**14 <= max(map(abs, buffers)) / power < 2**15
            buffers = tuple(power * x for x in struct.unpack("<2e", halves))
    assert decoded(case["content"]) == expected
    assert found[8:] == buffers
    assert found == pytest.approx(numbers, abs=0.0 if case["format"] == "float32" else 2.54 / 127)
    part = json.loads(file["part"])
    assert [piece["name"] for piece in part] == ["backbone.w", "backbone.b", "backbone.norm.running_var"]
    assert [piece["offset"] for piece in part] == [0, 6, 8]
    assert hashlib.sha256(file["part"].encode()).hexdigest() == file["part_digest"]


@pytest.mark.parametrize("case", FILES["malformed.json"], ids=name)
def test_malformed_objects_are_refused(case: dict[str, Any]) -> None:
    content = decoded(case["content"])
    if case["kind"] == "RecordDict":
        with pytest.raises(MalformedObject):
            read_records(object_id(content), {object_id(content): content})
        return
    root, objects = write_records({"a": {}})
    (child,) = read_object(objects[root], "RecordDict").children
    parent = objects[root].replace(child.encode(), object_id(content).encode())
    with pytest.raises(MalformedObject):
        read_records(object_id(parent), {object_id(parent): parent, object_id(content): content})


@pytest.mark.parametrize("case", FILES["calls.json"], ids=name)
def test_calls_are_the_same_bytes_in_flower(case: dict[str, Any]) -> None:
    for side, kind in zip(("request", "response"), THEIRS[case["path"].rpartition("/")[2]], strict=True):
        content = decoded(case[f"{side}_bytes"])
        message = kind.FromString(content)
        assert message.SerializeToString(deterministic=True) == content
        assert MessageToDict(message, preserving_proto_field_name=True) == case[side]
        assert ParseDict(case[side], kind()) == message


@pytest.mark.parametrize("case", FILES["answers.json"], ids=name)
def test_answers_are_the_same_messages_in_flower(case: dict[str, Any]) -> None:
    question = Question.read(decoded(case["question"]))
    assert question is not None
    content: Any = Failure(**case["error"]) if "error" in case else untyped(case["records"])
    answer = build_answer(question, int(case["node"]), case["now"], case["seconds"], content)
    assert answer.request == decoded(case["push_messages"])
    assert answer.objects == tuple(decoded(item["content"]) for item in case["objects"])

    request = fleet_pb2.PushMessagesRequest.FromString(answer.request)
    asked = message_from_proto(
        fleet_pb2.PullMessagesResponse.FromString(decoded(case["question"])).messages_list[0]
    )
    replied = message_from_proto(request.messages_list[0])
    meta = replied.metadata
    assert (meta.reply_to_message_id, meta.run_id) == (asked.metadata.message_id, asked.metadata.run_id)
    assert (meta.src_node_id, meta.dst_node_id) == (asked.metadata.dst_node_id, asked.metadata.src_node_id)
    assert meta.created_at + meta.ttl == asked.metadata.created_at + asked.metadata.ttl
    assert replied.has_error() == isinstance(content, Failure)
    children = {}
    if not isinstance(content, Failure):
        theirs = RecordDict({key: ConfigRecord(items) for key, items in content.items()})
        children = {theirs.object_id: theirs}
    whole = Message.inflate(answer.objects[-1], children)  # type: ignore[arg-type]
    assert meta.message_id == object_id(answer.objects[-1])
    assert request.message_object_trees[0].object_id == meta.message_id
    if isinstance(content, Failure):
        assert (whole.error.code, whole.error.reason) == (content.code, content.reason)
    else:
        assert {key: dict(items) for key, items in whole.content.items()} == content


@pytest.mark.parametrize("case", FILES["errors.json"], ids=lambda case: f"{case['status']}-{case['code']}")
def test_errors_are_read_as_flower_writes_them(case: dict[str, Any]) -> None:
    code, detail = _read_error(case["body"].encode())
    assert code == case["code"]
    theirs = FlowerError.from_json(case["body"])
    if theirs is not None:
        assert (theirs.code, theirs.message) == (code, detail)


READERS = {
    "an instruction": (read_instruction, SMALL), "an update": (read_update, UPDATE), "a status": (read_status, STATUS),
}  # fmt: skip


@pytest.mark.parametrize("kind", READERS)
def test_the_keys_of_records_are_those_of_the_page(kind: str) -> None:
    """All of them are in its table, and only without those that it says are required a record cannot be read."""
    read, record = READERS[kind]
    page = (REPOSITORY / "docs" / "phone.md").read_text()
    table = page.split(f"| key of {kind} |")[1].split("\n\n")[0]
    rows = [line.split("|") for line in table.splitlines()[2:]]
    keys = [re.findall("`([^`]+)`", row[1]) for row in rows]
    assert set(record) <= {key for row in keys for key in row}
    for row, names in zip(rows, keys, strict=True):
        rest = {key: value for key, value in record.items() if key not in names}
        if "required" in row[3]:
            with pytest.raises(KeyError):
                read(rest)
        else:
            read(rest)


@pytest.mark.parametrize("case", FILES["schedules.json"], ids=name)
def test_rounds_are_scheduled_as_the_page_says(case: dict[str, Any]) -> None:
    """From the shuffles alone: what a client in another language would write."""
    seen: dict[str, int] = {}
    total: dict[str, float] = {}
    batches = mixed_batches(case) or sequential_batches(case)
    assert len(case["steps"]) == len(batches)
    for step, batch in zip(case["steps"], batches, strict=True):
        assert step["method"] == ("step_mixed" if len(batch) == 2 else f"step_{min(batch)}")
        size = case["batch"] // len(batch)
        assert step["captures"] == {k: [b[i % len(b)] for i in range(size)] for k, b in batch.items()}
        assert [shape[:2] for shape in step["noise_shape"].values()] == [[size, 2]] * len(batch)
        rates = [case["instruction"][key] for key in HYPER]
        assert step["hyper"] == pytest.approx([*rates, *map(len, batch.values())])
        for kind, b in batch.items():
            seen[kind] = seen.get(kind, 0) + len(b)
            total[kind] = total.get(kind, 0.0) + len(b) * step["loss"]
    assert case["update"] == {
        "examples": sum(seen.values()),
        **{f"seen-{kind}": count for kind, count in seen.items()},
        **{f"loss-{kind}": pytest.approx(total[kind] / count) for kind, count in seen.items()},
    }


def sequential_batches(case: dict[str, Any]) -> list[dict[str, list[int]]]:
    shuffles, size = iter(case["shuffles"]), case["batch"]
    placed: list[tuple[float, dict[str, list[int]]]] = []
    for kind in case["captures"]:
        chunks: list[list[int]] = []
        for _ in range(case["instruction"][f"epochs-{kind}"]):
            order = next(shuffles)
            cut = [order[i : i + size] for i in range(0, len(order), size)]
            if len(cut) > 1 and len(cut[-1]) < min(8, size):
                cut.pop()
            chunks += [chunk for chunk in cut if len(chunk) >= 2]
        placed += [((i + 0.5) / len(chunks), {kind: chunk}) for i, chunk in enumerate(chunks)]
    return [batch for _, batch in sorted(placed, key=lambda item: item[0])]


def mixed_batches(case: dict[str, Any]) -> list[dict[str, list[int]]]:
    usable = {kind: count for kind, count in case["captures"].items() if count >= 2}
    if not case["instruction"]["mixed"] or len(usable) < 2:
        return []
    shuffles, half = iter(case["shuffles"]), case["batch"] // 2
    work = sum(count * case["instruction"][f"epochs-{kind}"] for kind, count in usable.items())
    steps = max(1, work // case["batch"])
    streams: dict[str, list[int]] = {}
    for kind in usable:
        streams[kind] = []
        while len(streams[kind]) < steps * half:
            streams[kind] += next(shuffles)
    windows = [slice(step * half, (step + 1) * half) for step in range(steps)]
    return [{kind: list(dict.fromkeys(s[w])) for kind, s in streams.items()} for w in windows]

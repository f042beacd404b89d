"""What all golden vectors share: a key, times, ids, records, and a question. All of it is fixed."""

from typing import Any

from cryptography.hazmat.primitives.serialization import load_pem_private_key

from pocketfed.core.wire import Value
from pocketfed.mobile_client.flower import descriptors as d
from pocketfed.mobile_client.flower.key import PhoneKey
from pocketfed.mobile_client.flower.objects import Object, Records, object_id, write_object, write_records

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

LAYOUT, BUNDLE, RUN_ID = "5f" * 32, "b7" * 32, "c4" * 16
INSTRUCTION: dict[str, Value] = {
    "round": 3, "run": RUN_ID, "seed": 2**63 + 5, "mixed": 0, "layout": LAYOUT, "epochs-photo": 1, "epochs-sound": 2,
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


def key() -> PhoneKey:
    """The key of all vectors."""
    private: Any = load_pem_private_key(PRIVATE_KEY.encode(), None)
    return PhoneKey(private)


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

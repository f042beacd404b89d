"""Classes of the Fleet API's messages, made when this is imported from descriptors that ship beside it.

`mobile_client/proto/regenerate.py` writes `fleet.binpb`, and the same as `.proto` files for other languages. The
classes live in a pool of their own: a process may hold Flower's own registration of the same names as well.
"""

from pathlib import Path
from typing import Any

from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

FILE = Path(__file__).with_name("fleet.binpb")


def _load_pool() -> DescriptorPool:
    pool = DescriptorPool()
    for file in FileDescriptorSet.FromString(FILE.read_bytes()).file:
        pool.Add(file)
    return pool


_POOL = _load_pool()


def _class(name: str) -> Any:
    return GetMessageClass(_POOL.FindMessageTypeByName(f"flwr.proto.{name}"))


Node = _class("Node")
RegisterNodeRequest = _class("RegisterNodeFleetRequest")
RegisterNodeResponse = _class("RegisterNodeFleetResponse")
ActivateNodeRequest = _class("ActivateNodeRequest")
ActivateNodeResponse = _class("ActivateNodeResponse")
HeartbeatRequest = _class("SendNodeHeartbeatRequest")
HeartbeatResponse = _class("SendNodeHeartbeatResponse")
PullMessagesRequest = _class("PullMessagesRequest")
PullMessagesResponse = _class("PullMessagesResponse")
PullObjectRequest = _class("PullObjectRequest")
PullObjectResponse = _class("PullObjectResponse")
ConfirmRequest = _class("ConfirmMessageReceivedRequest")
ConfirmResponse = _class("ConfirmMessageReceivedResponse")
PushMessagesRequest = _class("PushMessagesRequest")
PushMessagesResponse = _class("PushMessagesResponse")
PushObjectRequest = _class("PushObjectRequest")
PushObjectResponse = _class("PushObjectResponse")

Message = _class("Message")
Metadata = _class("Metadata")
Error = _class("Error")
ObjectTree = _class("ObjectTree")
ConfigRecord = _class("ConfigRecord")
ConfigRecordItem = _class("ConfigRecord.Item")
ConfigRecordValue = _class("ConfigRecordValue")

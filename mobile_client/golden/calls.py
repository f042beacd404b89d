"""Every call, there and back."""

from typing import Any

from golden.encoding import b64, fields
from golden.sample import INSTRUCTION, NODE, NOW, RUN, SECONDS, UPDATE, key, question
from pocketfed.mobile_client.flower import descriptors as d
from pocketfed.mobile_client.flower.objects import object_id
from pocketfed.mobile_client.flower.task import Question, build_answer


def calls() -> list[dict[str, Any]]:
    """Requests and responses, as fields and as bytes."""
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

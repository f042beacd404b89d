"""Golden vectors of what servers should not answer, at an agent: what it does, and how often it asks."""

import base64
import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from golden.encoding import untyped
from pocketfed.core.errors import CallRefused, PocketfedError, Unreachable
from pocketfed.core.wire import FAILED
from pocketfed.mobile_client.flower import descriptors as d
from pocketfed.mobile_client.flower.agent import Agent
from pocketfed.mobile_client.flower.calls import Caller
from pocketfed.mobile_client.flower.clock import ServerClock
from pocketfed.mobile_client.flower.fleet import Fleet, tree_ids
from pocketfed.mobile_client.flower.journal import Journal
from pocketfed.mobile_client.flower.key import load_or_create_key
from pocketfed.mobile_client.flower.membership import Membership
from tests.conftest import REPOSITORY

GOLDEN = REPOSITORY / "mobile_client" / "golden"
FILE: dict[str, Any] = json.loads((GOLDEN / "responses.json").read_text())
AT_WORK = [case for case in json.loads((GOLDEN / "errors.json").read_text()) if "attempts" in case]
NODE = int(FILE["node"])
OBJECTS = {item["id"]: base64.b64decode(item["content"]) for item in FILE["objects"]}

Reply = httpx.Response | None


@dataclass
class Scene:
    """A phone that has joined a server which behaves, but where `instead` says otherwise."""

    agent: Agent
    journal: Journal
    calls: Counter[str]
    offered: list[Any]

    instead: Callable[[str], Reply] = lambda name: None

    def respond(self, request: httpx.Request) -> httpx.Response:
        name = request.url.path.rpartition("/")[2]
        self.calls[name] += 1
        if name == "push-messages":
            self.offered.append(d.PushMessagesRequest.FromString(request.content))
        return self.instead(name) or answered(self._usual(name, request.content).SerializeToString())

    def _usual(self, name: str, content: bytes) -> Any:
        match name:
            case "activate-node":
                return d.ActivateNodeResponse(node_id=NODE)
            case "pull-messages" if self.calls[name] == 1:
                return d.PullMessagesResponse.FromString(base64.b64decode(FILE["question"]))
            case "pull-object":
                asked = d.PullObjectRequest.FromString(content).object_id
                return d.PullObjectResponse(
                    object_found=True, object_available=True, object_content=OBJECTS[asked]
                )
            case "push-messages":
                tree = self.offered[-1].message_object_trees[0]
                return d.PushMessagesResponse(objects_to_push=tree_ids(tree, 9), session_id="s")
            case "push-object":
                return d.PushObjectResponse(stored=True)
        return d.PullMessagesResponse()  # as empty as the others


def answered(content: bytes, status: int = 200) -> httpx.Response:
    return httpx.Response(status, stream=httpx.ByteStream(content))


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    key, journal = load_or_create_key(tmp_path / "key"), Journal(tmp_path / "journal")
    clock = ServerClock(lambda: FILE["now"])
    transport = httpx.MockTransport(lambda request: made.respond(request))
    with Caller("http://phone.test", key, clock, transport=transport, sleep=lambda seconds: None) as caller:
        fleet = Fleet(caller)
        agent = Agent(
            fleet,
            Membership(fleet, tmp_path / "node.json", 60.0),
            journal,
            lambda task: untyped(FILE["answer"]),
            sleep=lambda seconds: None,
        )
        made: Scene = Scene(agent, journal, Counter(), [])
        yield made


def test_without_a_case_the_question_is_answered(scene: Scene) -> None:
    assert scene.agent.step()
    assert scene.agent.answered == 1
    assert scene.calls["push-object"] == 3


@pytest.mark.parametrize("case", FILE["cases"], ids=lambda case: case["name"])
def test_what_a_server_should_not_answer(
    case: dict[str, Any], scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    reply = case["reply"]
    scene.instead = lambda name: (
        answered(base64.b64decode(reply["response_bytes"])) if name == reply["call"] else None
    )
    worked: bool | None = None
    try:
        worked = scene.agent.step()
    except Unreachable:
        assert case["action"] == "wait"
    assert {name: scene.calls[name] for name in case["calls"]} == case["calls"]
    assert scene.agent.answered == (case["action"] == "fail")
    match case["action"]:
        case "fail":
            (offer,) = scene.offered
            error = offer.messages_list[0].error
            assert error.code == FAILED
            assert error.reason
        case "ignore":
            assert worked is False
            assert "ignoring a message" in caplog.text
        case "drop":
            assert worked
            assert "dropping a message" in caplog.text
        case "rejected":
            assert worked
            assert "did not want the answer" in caplog.text
        case action:
            assert action == "wait"
            assert worked is None
    kept = case["action"] == "wait" and reply["call"] != "pull-messages"
    assert (scene.journal.load() is not None) == kept
    scene.instead = lambda name: None
    scene.agent.step()
    assert scene.agent.answered == (kept or case["action"] == "fail")


@pytest.mark.parametrize("case", AT_WORK, ids=lambda case: str(case["status"]))
def test_what_refusals_do_to_the_message_at_work(case: dict[str, Any], scene: Scene) -> None:
    scene.instead = lambda name: (
        answered(case["body"].encode(), case["status"]) if name == case["call"] else None
    )
    dropped_after: int | None = case["dropped_after"]
    for step in range(1, (dropped_after or 6) + 1):
        expected: type[PocketfedError] = CallRefused if case["attempts"] == 1 else Unreachable
        with pytest.raises(expected):
            scene.agent.step()
        assert scene.calls[case["call"]] == step * case["attempts"]
        assert (scene.journal.load() is None) == (step == dropped_after)
    scene.instead = lambda name: None
    scene.agent.step()
    assert scene.agent.answered == (dropped_after is None)

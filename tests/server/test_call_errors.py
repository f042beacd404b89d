"""What becomes of a call that goes wrong, and of its body when it is over."""

import asyncio
import gc
import json
import logging
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.proto.message_pb2 import PushObjectRequest
from flwr.proto.node_pb2 import Node
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.types import Message as Event

from pocketfed.mobile_client.flower.calls import MEDIA_TYPE
from pocketfed.mobile_client.flower.key import PhoneKey
from pocketfed.server.flower_private import Fleet
from pocketfed.server.flower_private.calls import _Errors, _Translation

PUSH, PAGE = "/v1/fleet/push-object", "/metrics"


pytestmark = pytest.mark.usefixtures("quiet_flower")


class WatchedScope(dict[str, Any]):
    """What each object that is made of a request refers to; unlike a dictionary, it can be watched."""


def request_of(path: str, headers: dict[str, str] | None = None) -> WatchedScope:
    """A request as a server hands it to an application."""
    given = {"content-type": MEDIA_TYPE, **(headers or {})}
    return WatchedScope(
        type="http",
        asgi={"version": "3.0"},
        http_version="1.1",
        method="POST",
        scheme="http",
        path=path,
        raw_path=path.encode(),
        query_string=b"",
        root_path="",
        headers=[(name.lower().encode(), value.encode()) for name, value in given.items()],
        client=("127.0.0.1", 1),
        server=("127.0.0.1", 2),
        state={},
    )


async def call(app: ASGIApp, scope: Scope, body: bytes = b"") -> list[Event]:
    """All that an application answers."""
    answered: list[Event] = []

    async def receive() -> Event:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(event: Event) -> None:
        answered.append(event)

    await app(scope, receive, send)
    return answered


def failing(error: Exception, begin: bool = False) -> ASGIApp:
    """An application that fails at once, or when its answer has begun."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if begin:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"half", "more_body": True})
        raise error

    return app


def status_of(events: list[Event]) -> tuple[int, dict[str, Any]]:
    """Status and content of a whole answer."""
    start, *bodies = events
    return start["status"], json.loads(b"".join(event.get("body", b"") for event in bodies))


@pytest.mark.parametrize("error", [KeyError("run 7"), ValueError("no hash"), OverflowError("2**64")])
def test_a_mistake_in_a_call_is_the_callers_and_fills_no_log(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG, logger="pocketfed"):
        status, said = status_of(asyncio.run(call(_Errors(failing(error)), request_of(PUSH))))
    assert (status, said["code"]) == (400, 1003)
    (line,) = (record for record in caplog.records if record.name.startswith("pocketfed"))
    assert line.levelno == logging.DEBUG
    assert line.exc_info is not None
    assert line.exc_info[1] is error


@pytest.mark.parametrize(
    ("path", "error"),
    [
        ("/", KeyError("mine")),
        (PAGE, ValueError("mine")),
        ("/bundle", OverflowError("mine")),
        (PUSH, ZeroDivisionError("mine")),
    ],
)
def test_a_mistake_of_our_own_is_500_with_a_traceback_in_the_log(
    path: str, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    status, said = status_of(asyncio.run(call(_Errors(failing(error)), request_of(path))))
    assert (status, said) == (500, {"detail": "Internal server error."})
    (line,) = (record for record in caplog.records if record.name.startswith("pocketfed"))
    assert (line.levelno, line.getMessage(), line.__dict__["path"]) == (
        logging.ERROR,
        "a request failed",
        path,
    )
    assert line.exc_info is not None
    assert line.exc_info[1] is error


@pytest.mark.parametrize("path", [PAGE, PUSH])
def test_an_answer_that_has_begun_is_cut_and_no_second_one_sent(path: str) -> None:
    answered = asyncio.run(call(_Errors(failing(ValueError("late"), begin=True)), request_of(path)))
    assert [event["type"] for event in answered] == ["http.response.start", "http.response.body"]
    assert answered[-1]["more_body"]


def test_a_call_that_nothing_answers_is_an_error_that_says_so(caplog: pytest.LogCaptureFixture) -> None:
    async def says_nothing(scope: Scope, receive: Receive, send: Send) -> None:
        pass

    with pytest.raises(RuntimeError, match=f"nothing answered {PUSH}"):
        asyncio.run(call(_Translation(says_nothing), request_of(PUSH)))
    status, _ = status_of(asyncio.run(call(_Errors(_Translation(says_nothing)), request_of(PUSH))))
    assert status == 500
    assert f"nothing answered {PUSH}" in caplog.text


def test_what_is_no_call_is_not_translated() -> None:
    answered = asyncio.run(call(_Translation(Response(b"as it is")), request_of(PAGE)))
    assert answered[-1]["body"] == b"as it is"


@pytest.fixture
def no_collector() -> Iterator[None]:
    """The garbage collector does not come."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_collector")
def test_a_body_is_gone_when_its_request_is_over(tmp_path: Path) -> None:
    """Nothing that a request is made of refers to itself: many phones' updates would wait for the garbage collector."""
    fleet, key = Fleet(tmp_path / "fleet.db", 10**6), PhoneKey(ec.generate_private_key(ec.SECP256R1()))
    node = fleet.register(key.public_pem, "")
    run = fleet.begin_run()
    app = fleet.app(enrolled_only=True)
    asked = PushObjectRequest(node=Node(node_id=node), run_id=run.run_id, object_content=b"x" * 10**5)

    async def push() -> "tuple[int, weakref.ref[WatchedScope]]":
        scope = request_of(PUSH, key.headers(time.time()))
        start, *_ = await call(app, scope, asked.SerializeToString())
        return start["status"], weakref.ref(scope)

    async def all_calls() -> None:
        for _ in range(2):  # what is made once is made by the first
            status, kept = await push()
        assert status == 200
        assert kept() is None

    asyncio.run(all_calls())
    fleet.end_run()

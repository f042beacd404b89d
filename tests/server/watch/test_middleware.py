"""Around phones' requests: bodies are bounded, times are noted."""

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator, Iterator

import httpx
import pytest
from flwr.superlink.routers.fleet.router import router
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

from pocketfed.server.watch.bounded_body import AT_ONCE, BoundedBody
from pocketfed.server.watch.metrics import Metrics
from pocketfed.server.watch.request_times import CALLS, RequestTimes
from tests.server.serving import serving
from tests.server.watch.asking import ask

MOST = 1000


async def size(request: Request) -> Response:
    return PlainTextResponse(str(len(await request.body())))


async def careless(request: Request) -> Response:
    """Answers 400 whatever happens while it reads."""
    try:
        return await size(request)
    except Exception:  # noqa: BLE001 - that is what makes it careless
        return PlainTextResponse("bad", 400)


async def broken(request: Request) -> Response:
    raise ZeroDivisionError


ROUTES = [
    Route("/v1/fleet/push-object", size, methods=["POST"]),
    Route("/careless", careless, methods=["POST"]),
    Route("/broken", broken, methods=["POST"]),
]


def bounded() -> BoundedBody:
    return BoundedBody(Starlette(routes=ROUTES), MOST)


async def pieces(count: int, length: int) -> AsyncIterator[bytes]:
    for _ in range(count):
        yield b"x" * length


def read_json(line: socket.socket) -> bytes:
    """An answer, to the end of its object."""
    answer = b""
    while not answer.endswith(b"}") and (piece := line.recv(4096)):
        answer += piece
    return answer


def is_refusal(answer: httpx.Response) -> bool:
    assert answer.json()["code"] == 413
    assert "1000 bytes" in answer.json()["detail"]
    return answer.status_code == 413


@pytest.mark.parametrize("length", [0, 1, MOST])
def test_bodies_within_the_bound_arrive(length: int) -> None:
    answer = ask(bounded(), "/v1/fleet/push-object", "POST", content=b"x" * length)
    assert (answer.status_code, answer.text) == (200, str(length))


@pytest.mark.parametrize("path", ["/v1/fleet/push-object", "/careless", "/nowhere"])
def test_an_announced_body_beyond_it_is_refused_unread(path: str) -> None:
    assert is_refusal(ask(bounded(), path, "POST", content=b"x" * (MOST + 1)))


@pytest.mark.parametrize("path", ["/v1/fleet/push-object", "/careless"])
def test_a_streamed_body_beyond_it_is_refused_whatever_the_application_does(path: str) -> None:
    assert is_refusal(ask(bounded(), path, "POST", content=pieces(11, 100)))
    assert ask(bounded(), path, "POST", content=pieces(10, 100)).text == "1000"


@pytest.mark.parametrize("announced", ["9" * 5000, "-5", "1e9", "²", "5"])
def test_a_lie_about_the_length_does_not_help(announced: str) -> None:
    headers = {"Content-Length": announced.encode("latin-1")}
    assert is_refusal(ask(bounded(), "/careless", "POST", content=pieces(11, 100), headers=headers))


@given(st.lists(st.integers(0, 400), max_size=8))
def test_the_bound_counts_every_byte(lengths: list[int]) -> None:
    sent: list[Message] = []
    waiting: Iterator[Message] = iter(
        [{"type": "http.request", "body": b"x" * length, "more_body": True} for length in lengths]
        + [{"type": "http.request", "body": b"", "more_body": False}]
    )

    async def receive() -> Message:
        return next(waiting)

    async def send(message: Message) -> None:
        sent.append(message)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive())["more_body"]:
            pass
        await PlainTextResponse("fine")(scope, receive, send)

    asyncio.run(BoundedBody(app, MOST)({"type": "http", "path": "/", "headers": []}, receive, send))
    starts = [message["status"] for message in sent if message["type"] == "http.response.start"]
    assert starts == [200 if sum(lengths) <= MOST else 413]


def test_paths_have_bounds_of_their_own() -> None:
    app = BoundedBody(Starlette(routes=ROUTES), 10, large={"/v1/fleet/push-object": MOST})
    assert ask(app, "/v1/fleet/push-object", "POST", content=b"x" * MOST).status_code == 200
    assert ask(app, "/careless", "POST", content=b"x" * 11).status_code == 413


def test_a_body_that_stands_still_is_given_up() -> None:
    """Whoever sends it: nobody knows yet, and what has come of it is held."""
    stalling = BoundedBody(Starlette(routes=ROUTES), MOST, stall=0.1)
    with serving(stalling) as port, socket.create_connection(("127.0.0.1", port), timeout=10) as line:
        line.sendall(b"POST /careless HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n" + b"x" * 99)
        answer = read_json(line)
    assert answer.startswith(b"HTTP/1.1 408")
    assert b"too slowly" in answer


@pytest.mark.parametrize(("path", "seconds"), [("/careless", 0.5), ("/v1/fleet/push-object", 1.5)])
def test_a_body_that_trickles_is_given_up_after_its_time_in_all(path: str, seconds: float) -> None:
    """A large body has longer than a small one."""
    trickled = BoundedBody(
        Starlette(routes=ROUTES), MOST, large={"/v1/fleet/push-object": MOST}, stall=0.5, longest=1.5
    )
    with serving(trickled) as port, socket.create_connection(("127.0.0.1", port), timeout=10) as line:
        began = time.monotonic()
        line.sendall(f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n".encode())
        line.settimeout(0.1)
        answer = b""
        while not answer and time.monotonic() < began + 10:
            line.sendall(b"x")
            with contextlib.suppress(TimeoutError):
                answer = line.recv(4096)
    assert answer.startswith(b"HTTP/1.1 408")
    assert seconds - 0.1 < time.monotonic() - began < seconds + 0.8


def test_what_all_requests_hold_together_is_bounded() -> None:
    """More than so many large bodies at once are told to come again; when they are gone, the next one is let in."""

    async def scene() -> list[int]:
        app, statuses, go_on = BoundedBody(Starlette(routes=ROUTES), MOST), list[int](), asyncio.Event()

        async def request() -> None:
            parts = iter([{"type": "http.request", "body": b"x" * MOST, "more_body": True}])

            async def receive() -> Message:
                if (part := next(parts, None)) is not None:
                    return part
                await go_on.wait()
                return {"type": "http.request", "body": b"", "more_body": False}

            async def send(message: Message) -> None:
                if message["type"] == "http.response.start":
                    statuses.append(message["status"])

            scope = {"type": "http", "path": "/v1/fleet/push-object", "method": "POST", "headers": []}
            await app(scope, receive, send)

        waiting = [asyncio.create_task(request()) for _ in range(AT_ONCE + 2)]
        while len(statuses) < 2:
            await asyncio.sleep(0)
        go_on.set()
        await asyncio.gather(*waiting)
        await request()
        return statuses

    assert asyncio.run(asyncio.wait_for(scene(), 20)) == [503, 503] + [200] * (AT_ONCE + 1)


def test_large_bodies_leave_room_for_small_ones() -> None:
    """However many of them stand still."""

    async def scene() -> list[int]:
        large = {"/v1/fleet/push-object": MOST}
        app, statuses, go_on = BoundedBody(Starlette(routes=ROUTES), 100, large), list[int](), asyncio.Event()

        async def request(path: str, length: int, complete: bool) -> None:
            async def receive() -> Message:
                nonlocal complete, length
                body, length = b"x" * length, 0
                if not body:
                    await go_on.wait()
                    complete = True
                return {"type": "http.request", "body": body, "more_body": not complete}

            async def send(message: Message) -> None:
                if message["type"] == "http.response.start":
                    statuses.append(message["status"])

            await app({"type": "http", "path": path, "method": "POST", "headers": []}, receive, send)

        waiting = [
            asyncio.create_task(request("/v1/fleet/push-object", MOST, complete=False))
            for _ in range(AT_ONCE)
        ]
        await asyncio.sleep(0)
        await request("/careless", 70, complete=True)
        small = list(statuses)
        go_on.set()
        await asyncio.gather(*waiting)
        return small

    assert asyncio.run(asyncio.wait_for(scene(), 20)) == [200]


def test_an_application_is_told_that_the_client_of_a_refused_body_went_away() -> None:
    """It is the one end of a body that every application knows; what it does then is nobody's error."""
    seen: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        while (message := await receive())["type"] == "http.request":
            pass
        seen.append(message["type"])
        seen.append((await receive())["type"])

    ask(BoundedBody(app, MOST), "/", "POST", content=pieces(11, 100))
    assert seen == ["http.disconnect"] * 2


def test_errors_of_the_application_stay_its_own() -> None:
    with pytest.raises(ZeroDivisionError):
        ask(bounded(), "/broken", "POST")


def test_over_a_socket_the_refusal_comes_before_the_body_ends() -> None:
    """A sender who never stops is answered."""
    with serving(bounded()) as port, socket.create_connection(("127.0.0.1", port), timeout=10) as line:
        line.sendall(b"POST /careless HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        line.sendall(b"5dc\r\n" + b"x" * 1500 + b"\r\n")  # no last chunk
        answer = read_json(line)
    assert answer.startswith(b"HTTP/1.1 413")
    assert b'{"code": 413' in answer


def counts(metrics: Metrics) -> dict[tuple[str, str], float]:
    text = metrics.exposition()[0].decode()
    return {
        (sample.labels["call"], sample.labels["status"]): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == "pocketfed_request_seconds_count"
    }


def test_requests_are_counted_by_call_and_status() -> None:
    metrics = Metrics()
    app = RequestTimes(bounded(), metrics)
    ask(app, "/v1/fleet/push-object", "POST", content=b"x")
    ask(app, "/v1/fleet/push-object", "POST", content=b"x" * 2000)
    for path in ("/v1/fleet/made-up", "/%00", "/" + "x" * 3000):
        ask(app, path)
    with pytest.raises(ZeroDivisionError):
        ask(app, "/broken", "POST")
    assert counts(metrics) == {
        ("push-object", "200"): 1,
        ("push-object", "413"): 1,
        ("other", "404"): 3,
        ("other", "500"): 1,
    }


def test_a_request_that_is_never_answered_is_counted() -> None:
    async def silent(scope: Scope, receive: Receive, send: Send) -> None:
        return

    metrics = Metrics()
    scope = {"type": "http", "path": "/metrics", "headers": []}
    asyncio.run(RequestTimes(silent, metrics)(scope, None, None))  # type: ignore[arg-type]
    assert counts(metrics) == {("metrics", "none"): 1}


def test_every_call_of_flower_has_a_name() -> None:
    paths = {route.path for route in router.routes if isinstance(route, Route)}
    assert paths
    assert paths <= set(CALLS)

"""Connections that are opened for nothing do not keep others out, nor the server's own files."""

import contextlib
import http.client
import resource
import socket
import time
from collections.abc import Iterator

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from pocketfed.server import connections
from pocketfed.server.connections import allow_many_connections, most_connections
from pocketfed.server.serving import Serving

SOON = 0.4


async def size(request: Request) -> Response:
    return PlainTextResponse(str(len(await request.body())))


async def refuse(request: Request) -> Response:
    return PlainTextResponse("no", 401)


APP = Starlette(routes=[Route("/size", size, methods=["POST"]), Route("/refuse", refuse, methods=["POST"])])


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    monkeypatch.setattr(connections, "BEGIN_WITHIN", SOON)
    with Serving(APP, "127.0.0.1", 0, None) as server:
        yield server.port


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=5)


def trickle(line: socket.socket, content: bytes) -> float:
    """Seconds until the server hangs up on somebody who sends a byte now and then."""
    began = time.monotonic()
    line.settimeout(0.05)
    for byte in content:
        try:
            line.sendall(bytes([byte]))
            if not line.recv(4096):
                break
        except TimeoutError:
            continue
        except OSError:
            break
    return time.monotonic() - began


def test_a_connection_that_sends_nothing_is_closed(port: int) -> None:
    with connect(port) as line:
        began = time.monotonic()
        with contextlib.suppress(ConnectionResetError):
            assert line.recv(1) == b""
        assert SOON / 2 < time.monotonic() - began < SOON + 2


def test_a_head_that_trickles_is_given_up(port: int) -> None:
    with connect(port) as line:
        assert trickle(line, b"POST /size HTTP/1.1\r\nHost: " + b"x" * 100) < SOON + 2


def test_so_is_that_of_a_later_request(port: int) -> None:
    with connect(port) as line:
        line.sendall(b"POST /size HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nx")
        assert line.recv(4096).startswith(b"HTTP/1.1 200")
        assert trickle(line, b"POST /size HTTP/1.1\r\nHost: " + b"x" * 100) < SOON + 2


def test_so_is_a_body_that_trickles_on_after_its_answer(port: int) -> None:
    with connect(port) as line:
        line.sendall(b"POST /refuse HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\nx")
        assert line.recv(4096).startswith(b"HTTP/1.1 401")
        assert trickle(line, b"x" * 200) < SOON + 2


def test_a_request_and_the_time_between_two_may_take_longer(port: int) -> None:
    with connect(port) as line:
        for _ in range(2):
            line.sendall(b"POST /size HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nx")
            time.sleep(2 * SOON)
            line.sendall(b"yz")
            answer = line.recv(4096)
            while not answer.endswith(b"\r\n\r\n3"):
                answer += line.recv(4096)
            time.sleep(2 * SOON)


def test_connections_beyond_the_most_are_closed_and_those_before_them_go_on(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "most_connections", lambda: 2)
    kept = [http.client.HTTPConnection("127.0.0.1", port, timeout=5) for _ in range(2)]
    for _ in range(2):
        for line in kept:
            line.request("POST", "/size", b"abc")
            assert line.getresponse().read() == b"3"
        with pytest.raises(httpx.TransportError):
            httpx.post(f"http://127.0.0.1:{port}/size", content=b"abc", trust_env=False)
    for line in kept:
        line.close()


def test_a_server_opens_as_many_files_as_it_may_and_keeps_some_for_itself() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(512, before[1]), before[1]))
        assert most_connections() < 512
        allow_many_connections()
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (before[1], before[1])
        assert most_connections() < before[1] or before[1] == resource.RLIM_INFINITY
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)

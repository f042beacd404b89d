"""Who calls is asked first, of the headers: nobody else's body is read, and nobody speaks for another."""

import json
import logging
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.proto.node_pb2 import Node
from flwr.supercore.protobuf.translation import PROTOBUF_REQUEST_TYPES
from starlette.middleware import Middleware

from pocketfed.mobile_client.flower.calls import MEDIA_TYPE
from pocketfed.mobile_client.flower.key import PhoneKey
from pocketfed.server.flower_private import Fleet
from pocketfed.server.serving import Serving
from pocketfed.server.watch.bounded_body import BoundedBody
from tests.server.loopback import serving

CALLS = sorted(path for _, path in PROTOBUF_REQUEST_TYPES if path.startswith("/v1/fleet/"))
NEWCOMERS = {"/v1/fleet/register-node": (412, 2001), "/v1/fleet/activate-node": (412, 2004)}
"""What Flower answers to a key that is not enrolled; phones go by it."""


pytestmark = pytest.mark.usefixtures("quiet_flower")


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Fleet, str]]:
    """A server for enrolled phones."""
    with serving(tmp_path_factory.mktemp("closed"), enrolled_only=True) as made:
        yield made


def new_key() -> PhoneKey:
    return PhoneKey(ec.generate_private_key(ec.SECP256R1()))


def signed(key: PhoneKey) -> dict[str, str]:
    return key.headers(time.time()) | {"content-type": MEDIA_TYPE}


def head_only(url: str, path: str, headers: dict[str, str]) -> tuple[int, int]:
    """Status and code of the answer to a call of whose body nothing comes."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    parts = urlsplit(url)
    with socket.create_connection((parts.hostname, parts.port), timeout=5) as line:
        line.sendall(f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n{lines}\r\n".encode())
        answer = b""
        while not answer.endswith(b"}") and (piece := line.recv(4096)):
            answer += piece
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body).get("code", 0)


@pytest.mark.parametrize(
    "path", [*CALLS, "/v1/control/start-run", "/v1/fleet/made-up", "/%09v1/fleet/get-run"]
)
def test_without_a_signature_a_call_is_refused_before_its_body(closed: tuple[Fleet, str], path: str) -> None:
    assert head_only(closed[1], path, {"content-type": MEDIA_TYPE}) == (401, 0)


@pytest.mark.parametrize("path", CALLS)
def test_a_key_that_is_not_enrolled_is_refused_before_its_body_as_flower_does(
    closed: tuple[Fleet, str], path: str
) -> None:
    assert head_only(closed[1], path, signed(new_key())) == NEWCOMERS.get(path, (401, 0))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("flwr-signature", "AAAA"),
        ("flwr-signature", "no base64"),
        ("flwr-public-key", "AAAA"),
        ("flwr-public-key", "no base64"),
        ("flwr-timestamp", "2020-01-01T00:00:00+00:00"),
        ("flwr-timestamp", "yesterday"),
    ],
)
def test_a_signature_that_is_wrong_is_none(closed: tuple[Fleet, str], name: str, value: str) -> None:
    fleet, url = closed
    key = new_key()
    fleet.register(key.public_pem, "")
    assert head_only(url, "/v1/fleet/pull-messages", signed(key) | {name: value}) == (401, 0)


@pytest.mark.parametrize("path", CALLS)
def test_nobody_speaks_for_another(closed: tuple[Fleet, str], path: str) -> None:
    fleet, url = closed
    mine, others = new_key(), new_key()
    fleet.register(mine.public_pem, "")
    node = fleet.register(others.public_pem, "")
    request = PROTOBUF_REQUEST_TYPES["POST", path]()
    if hasattr(request, "public_key"):
        request.public_key = others.public_pem
    elif hasattr(request, "node"):
        request.node.CopyFrom(Node(node_id=node))
    else:
        request.node_id = node
    body = request.SerializeToString()
    assert httpx.post(url + path, content=body, headers=signed(mine), trust_env=False).status_code == 401
    assert httpx.post(url + path, content=body, headers=signed(others), trust_env=False).status_code != 401


def test_a_key_that_is_revoked_is_refused_from_its_next_call_on(closed: tuple[Fleet, str]) -> None:
    fleet, url = closed
    key = new_key()
    node = fleet.register(key.public_pem, "")
    body = PROTOBUF_REQUEST_TYPES["POST", "/v1/fleet/pull-messages"](
        node=Node(node_id=node)
    ).SerializeToString()

    def pull() -> int:
        path = f"{url}/v1/fleet/pull-messages"
        return httpx.post(path, content=body, headers=signed(key), trust_env=False).status_code

    assert pull() == 200
    fleet.revoke(node)
    assert pull() == 401


def test_an_open_server_lets_any_key_register_and_nothing_else(tmp_path: Path) -> None:
    key = new_key()
    with serving(tmp_path) as (_, url):
        assert head_only(url, "/v1/fleet/push-object", signed(key)) == (401, 0)
        request = PROTOBUF_REQUEST_TYPES["POST", "/v1/fleet/register-node"](public_key=key.public_pem)
        answer = httpx.post(
            f"{url}/v1/fleet/register-node",
            content=request.SerializeToString(),
            headers=signed(key),
            trust_env=False,
        )
        assert answer.status_code == 200


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def begun_upload(key: PhoneKey, length: int = 100) -> bytes:
    """The head of a call that brings weights, which none of them follow."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in signed(key).items())
    return (
        f"POST /v1/fleet/push-object HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n{lines}\r\n".encode()
    )


@pytest.fixture
def heard(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """All that is logged, by Flower too."""
    flower = logging.getLogger("flwr")
    propagates, flower.propagate = flower.propagate, True
    flower.setLevel(logging.INFO)
    with caplog.at_level(logging.DEBUG):
        yield caplog
    flower.propagate = propagates


def test_a_caller_who_hangs_up_is_nobodys_error(
    closed: tuple[Fleet, str], heard: pytest.LogCaptureFixture
) -> None:
    fleet, url = closed
    key = new_key()
    fleet.register(key.public_pem, "")
    parts = urlsplit(url)
    with socket.create_connection((parts.hostname, parts.port), timeout=5) as line:
        line.sendall(begun_upload(key))
        time.sleep(0.3)
    until = time.monotonic() + 5
    while "went away" not in heard.text and time.monotonic() < until:
        time.sleep(0.05)
    assert "went away" in heard.text
    assert not warnings_of(heard)


def test_nor_is_one_whose_body_stands_still(tmp_path: Path, heard: pytest.LogCaptureFixture) -> None:
    fleet, key = Fleet(tmp_path / "fleet.db", 1000), new_key()
    fleet.register(key.public_pem, "")
    app = fleet.app(True, [Middleware(BoundedBody, most=1000, stall=0.2)])
    with (
        Serving(app, "127.0.0.1", 0, None) as server,
        socket.create_connection(("127.0.0.1", server.port)) as line,
    ):
        line.sendall(begun_upload(key))
        answer = b""
        while not answer.endswith(b"}") and (piece := line.recv(4096)):
            answer += piece
    assert answer.startswith(b"HTTP/1.1 408")
    assert not warnings_of(heard)

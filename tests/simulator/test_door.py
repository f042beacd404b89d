"""Whoever opens connections to a deployed server and sends nothing keeps no phone waiting."""

import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from pocketfed.mobile_client.flower.calls import MEDIA_TYPE
from pocketfed.mobile_client.flower.key import PhoneKey
from pocketfed.server.enrolment import open_fleet
from pocketfed.simulator.door import UPLOAD
from tests.simulator.deployed import Server, bundle, settings

CROWD = 64
"""Connections: four for each turn."""


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, PhoneKey]]:
    """A server for enrolled phones, and the key of one."""
    folder: Path = tmp_path_factory.mktemp("door")
    key = PhoneKey(ec.generate_private_key(ec.SECP256R1()))
    with Server(folder / "state", bundle(folder / "bundle", settings(2)), enrolled_only=True) as server:
        open_fleet(folder / "state").register(key.public_pem, "")
        yield server, key


def signed(key: PhoneKey) -> dict[str, str]:
    return key.headers(time.time()) | {"content-type": MEDIA_TYPE}


def seconds_behind_idle_uploads(server: Server, key: PhoneKey, headers: dict[str, str]) -> float:
    """How long a phone's upload takes while so many others have begun and send nothing."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    head = f"POST {UPLOAD} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n{lines}\r\n".encode()
    with ExitStack() as stack:
        for _ in range(CROWD):
            line = socket.create_connection(("127.0.0.1", server.port), timeout=5)
            stack.enter_context(line)
            line.sendall(head)
        time.sleep(0.5)
        began = time.monotonic()
        answer = httpx.post(server.url + UPLOAD, headers=signed(key), timeout=60, trust_env=False)
        assert answer.status_code == 401  # it names no node: that has been looked at
        return time.monotonic() - began


def test_strangers_take_no_turns(scene: tuple[Server, PhoneKey]) -> None:
    assert seconds_behind_idle_uploads(*scene, {"content-type": MEDIA_TYPE}) < 2


def test_uploads_of_a_phone_that_lost_the_network_keep_their_turns_for_a_moment(
    scene: tuple[Server, PhoneKey],
) -> None:
    server, key = scene
    assert seconds_behind_idle_uploads(server, key, signed(key)) < 6

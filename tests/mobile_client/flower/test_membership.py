"""Joining: first time, after crashes, and where phones are enrolled by people."""

import json
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from pocketfed.core.errors import CallRefused, ServerError, Unreachable
from pocketfed.mobile_client.flower.membership import Membership, keep_alive
from tests.mobile_client.flower.conftest import Crash, PhoneOnWire, Start
from tests.mobile_client.flower.superlink import SuperLink


def membership(phone: PhoneOnWire, tmp_path: Path, now: list[float] | None = None) -> Membership:
    clock = (lambda: now[0]) if now else (lambda: 0.0)
    return Membership(phone.agent._fleet, tmp_path / "home" / "node.json", 30.0, clock)


def test_a_new_phone_registers_and_a_known_one_does_not(superlink: SuperLink, start: Start) -> None:
    phone = start(superlink.url)
    phone.agent.step()
    assert phone.wire.calls == ["activate-node", "register-node", "activate-node", "pull-messages"]
    again = start(superlink.url)
    again.agent.step()
    assert again.wire.calls == ["activate-node", "send-node-heartbeat", "pull-messages"]
    superlink.state.deactivate_node(phone.agent.node)
    again = start(superlink.url)
    again.agent.step()
    assert again.wire.calls == ["activate-node", "pull-messages"]
    assert again.agent.node == phone.agent.node


def test_an_enrolled_phone_needs_no_registration_and_a_stranger_is_told_what_to_do(
    launch: Callable[..., SuperLink], start: Start
) -> None:
    server = launch(auth=True)
    phone = start(server.url)
    with pytest.raises(
        ServerError, match=r"pocketfed enrol --state STATE key\.pub, .*holds: ecdsa-sha2-nistp256 "
    ):
        phone.agent.step()
    node = server.enrol(phone.caller.key.public_pem)
    phone.agent.step()
    assert phone.agent.node == node
    server.revoke(node)
    with pytest.raises(CallRefused):
        phone.agent.step()
    with pytest.raises(ServerError, match="revoked"):
        phone.agent.step()


@pytest.mark.parametrize("auth", [False, True])
def test_a_lost_answer_to_going_online_is_waited_out(
    auth: bool, launch: Callable[..., SuperLink], start: Start
) -> None:
    import httpx

    server = launch(auth=auth)
    phone = start(server.url)
    node = server.enrol(phone.caller.key.public_pem)

    def lose(name: str) -> None:
        phone.wire.after = lambda name: None
        raise httpx.ReadError("gone")

    phone.wire.after = lose
    with pytest.raises(Unreachable):
        phone.agent.step()
    with pytest.raises(Unreachable, match="waiting until it lapses"):
        phone.agent.step()
    server.state.deactivate_node(node)  # as if its time had come
    phone.agent.step()
    assert phone.agent.node == node


def test_a_process_that_is_killed_while_it_goes_online_is_waited_out_by_the_next(
    launch: Callable[..., SuperLink], start: Start, tmp_path: Path
) -> None:
    """Where phones are enrolled, a node that is online and whose id nobody knows looks like a stranger."""
    server = launch(auth=True)
    phone = start(server.url)
    node = server.enrol(phone.caller.key.public_pem)

    def crash(name: str) -> None:
        raise Crash

    phone.wire.after = crash
    with pytest.raises(Crash):
        phone.agent.step()
    assert json.loads((tmp_path / "home" / "node.json").read_text())["activating"]
    for _ in range(2):  # the one after it as well
        again = start(server.url)
        with pytest.raises(Unreachable, match="waiting until it lapses"):
            again.agent.step()
    server.state.deactivate_node(node)  # as if its time had come
    again.agent.step()
    assert again.agent.node == node
    assert json.loads((tmp_path / "home" / "node.json").read_text()) == {
        "node": node, "server": server.url, "activating": False,
    }  # fmt: skip


def test_a_stranger_is_told_at_once_however_often_it_comes(
    launch: Callable[..., SuperLink], start: Start
) -> None:
    server = launch(auth=True)
    for _ in range(2):
        with pytest.raises(ServerError, match="pocketfed enrol"):
            start(server.url).agent.step()


def test_waiting_for_a_node_to_lapse_has_an_end(superlink: SuperLink, start: Start, tmp_path: Path) -> None:
    start(superlink.url).agent.step()
    (tmp_path / "home" / "node.json").unlink()
    now = [1.0]
    member = membership(start(superlink.url), tmp_path, now)
    with pytest.raises(Unreachable):
        member.join()
    now[0] = 120.0
    with pytest.raises(ServerError, match="another phone is online with it"):
        member.join()


def test_a_crash_between_registering_and_going_online(superlink: SuperLink, start: Start) -> None:
    phone = start(superlink.url)

    def crash(name: str) -> None:
        if phone.wire.calls.count("activate-node") == 2:
            raise Crash

    phone.wire.after = crash
    with pytest.raises(Crash):
        phone.agent.step()
    again = start(superlink.url)
    again.agent.step()
    assert again.wire.calls == ["activate-node", "send-node-heartbeat", "pull-messages"]


def test_a_phone_that_starts_anew_finds_its_server_at_another_address(
    superlink: SuperLink, start: Start
) -> None:
    phone = start(superlink.url)
    phone.agent.step()
    again = start(superlink.url.replace("127.0.0.1", "localhost"))
    again.agent.step()
    assert again.wire.calls == ["activate-node", "send-node-heartbeat", "pull-messages"]
    assert again.agent.node == phone.agent.node


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"server": "x"}', b'{"node": "1"}'])
def test_a_damaged_node_file_is_replaced(
    content: bytes, superlink: SuperLink, start: Start, tmp_path: Path
) -> None:
    phone = start(superlink.url)
    (tmp_path / "home" / "node.json").write_bytes(content)
    phone.agent.step()
    node = phone.agent.node
    again = start(superlink.url)
    again.agent.step()
    assert again.agent.node == node


def test_heartbeats_keep_a_phone_online_and_trouble_with_them_is_no_error(
    superlink: SuperLink, start: Start, tmp_path: Path
) -> None:
    phone = start(superlink.url)
    phone.agent.step()
    node = phone.agent.node or 0
    superlink.state.deactivate_node(node)
    assert not superlink.state.get_nodes(superlink.run)
    stop = threading.Event()
    beats = 0

    def beat() -> None:
        nonlocal beats
        beats += 1
        membership(phone, tmp_path).beat(node)
        if beats == 2:
            stop.set()

    keep_alive(beat, 0.01, stop)
    assert superlink.state.get_nodes(superlink.run) == {node}
    superlink.stop()
    membership(phone, tmp_path).beat(node)

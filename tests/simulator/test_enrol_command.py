"""Who may take part: keys enrolled and revoked while a server runs, and phones that nobody knows."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pocketfed.core.errors import ServerError
from pocketfed.mobile_client.flower.key import load_or_create_key
from pocketfed.server.enrolment import enrolled
from pocketfed.server.public_keys import read_public_key
from tests.conftest import Shown
from tests.simulator.deployed import (
    FEW,
    Phone,
    Server,
    assert_close,
    bundle,
    expected,
    fleet,
    settings,
    wait_for,
)

Command = Callable[..., Shown]


def public(phone: Phone) -> Path:
    load_or_create_key(phone.home.key)
    return phone.home.key.with_suffix(".pub")


def test_a_phone_that_is_enrolled_while_the_server_runs_takes_part_from_then_on(
    tmp_path: Path, pocketfed: Command
) -> None:
    made, state = bundle(tmp_path / "bundle", settings(2)), tmp_path / "state"
    homes = [argument for n in (0, 1) for argument in ("--new", tmp_path / f"phone-{n}")]
    shown = pocketfed("enrol", "--state", state, *homes)
    assert shown.code == 0
    assert shown.out.count("Enrolled phone-") == 2
    with fleet(tmp_path) as phones, Server(state, made, enrolled_only=True) as server:
        for phone in phones:
            phone.start(server.url)
        wait_for(lambda: phones[2].fault, "the unknown phone is refused")
        assert isinstance(phones[2].fault, ServerError)
        assert "does not know this phone's key" in str(phones[2].fault)
        assert f"holds: {load_or_create_key(phones[2].home.key).public_openssh}" in str(phones[2].fault)

        # From another process, as an operator does.
        command = [
            sys.executable,
            "-c",
            "from pocketfed.simulator.cli import main; main()",
            "enrol",
            "--state",
        ]
        subprocess.run([*command, state, public(phones[2])], check=True, capture_output=True, timeout=60)
        phones[2].leave()
        phones[2].start(server.url)
        assert_close(server.result(), expected(2))
    assert [outcome.phones for outcome in server.diary.outcomes] == [FEW, FEW]


def test_a_phone_that_is_revoked_in_mid_round_is_out_and_the_run_goes_on_with_another(
    tmp_path: Path, pocketfed: Command
) -> None:
    made, state = bundle(tmp_path / "bundle", settings(3, quorum=0.6)), tmp_path / "state"
    with fleet(tmp_path, FEW + 1) as phones:
        pocketfed("enrol", "--state", state, *(public(phone) for phone in phones))
        with Server(state, made, enrolled_only=True) as server:
            phones[1].stop_at(2)
            for phone in phones[:FEW]:
                phone.start(server.url)
            assert phones[1].stopped.wait(30)
            fingerprint = read_public_key(public(phones[1])).fingerprint
            shown = pocketfed("enrol", "--state", state, "--revoke", fingerprint[:20])
            assert shown.code == 0
            assert f"Revoked phone-1: {fingerprint}" in shown.out
            phones[1].go_on()
            wait_for(lambda: phones[1].fault, "the revoked phone is refused")
            assert isinstance(phones[1].fault, ServerError)
            assert "or has revoked it" in str(phones[1].fault)
            phones[FEW].start(server.url)
            server.result()
    # Its number in round 2 is not the others' matter; in round 3 another phone has its place.
    assert [outcome.phones for outcome in server.diary.outcomes] == [3, 2, 3]
    assert [failure.phone for failure in server.diary.outcomes[1].failures] == [1]


def test_the_list_says_who_is_what_and_mistakes_say_what_to_do(tmp_path: Path, pocketfed: Command) -> None:
    state = tmp_path / "state"
    with fleet(tmp_path, 2) as phones:
        keys = [public(phone) for phone in phones]
        prints = [read_public_key(key).fingerprint for key in keys]
        name = "the grey phone on the kitchen table beside the window"
        assert pocketfed("enrol", "--state", state, keys[0], "--name", name).code == 0
        assert pocketfed("enrol", "--state", state, keys[1]).code == 0

        twice = pocketfed("enrol", "--state", state, keys[0], keys[0])
        assert twice.code == 0
        assert twice.out.splitlines() == [f"Enrolled already: {name}: {prints[0]}"] * 2

        assert pocketfed("enrol", "--state", state, "--revoke", prints[1]).code == 0
        again = pocketfed("enrol", "--state", state, keys[1])
        assert again.code == 2
        assert "was revoked" in again.err
        assert "needs a new key" in again.err

        for wrong in (prints[1], "SHA256:nobody"):
            shown = pocketfed("enrol", "--state", state, "--revoke", wrong)
            assert shown.code == 2
            assert "0 enrolled keys have the fingerprint" in shown.err
        shown = pocketfed("enrol", "--state", state)
    assert "edge" not in shown.out
    # A fingerprint is in one piece, whatever the width: it is there to be copied.
    lines = {
        fingerprint: line for line in shown.out.splitlines() for fingerprint in prints if fingerprint in line
    }
    assert lines[prints[0]].split()[-1] == "registered"
    assert lines[prints[1]].split()[-1] == "revoked"
    assert [phone.name for phone in enrolled(state)] == [name, "phone-1"]


def test_an_edge_server_is_enrolled_as_one(tmp_path: Path, pocketfed: Command) -> None:
    state, home = tmp_path / "state", tmp_path / "north" / "upstream"
    assert pocketfed("enrol", "--state", state, "--edge", "--new", home, "--name", "north").code == 0
    (north,) = enrolled(state)
    assert (north.name, north.edge, north.status) == ("north", True, "registered")
    line = next(line for line in pocketfed("enrol", "--state", state).out.splitlines() if "SHA256" in line)
    assert line.split() == ["north", north.fingerprint, "edge", "registered"]
    shown = pocketfed("enrol", "--state", state, home / "key.pub")
    assert shown.code == 2
    assert "is enrolled as an edge server; revoke it, and enrol a new key" in shown.err


def test_all_keys_are_read_before_the_first_is_enrolled_and_the_command_can_be_repeated(
    tmp_path: Path, pocketfed: Command
) -> None:
    state, homes = tmp_path / "state", [tmp_path / f"phone-{n}" for n in range(3)]
    with fleet(tmp_path) as phones:
        keys = [public(phone) for phone in phones]
    good = keys[1].read_bytes()
    keys[1].write_text("junk")
    shown = pocketfed("enrol", "--state", state, *keys)
    assert (shown.code, len(shown.err.strip().splitlines())) == (2, 1)
    assert not state.exists(), "nobody was enrolled"
    assert pocketfed("enrol", "--state", state, keys[0]).code == 0
    keys[1].write_bytes(good)
    for word in ("", "already: "):  # the corrected command, and the same once more
        shown = pocketfed("enrol", "--state", state, *keys)
        assert shown.code == 0
        assert f"Enrolled already: phone-0: {read_public_key(keys[0]).fingerprint}" in shown.out
        assert f"Enrolled {word}phone-2: {read_public_key(keys[2]).fingerprint}" in shown.out
    again = pocketfed("enrol", "--state", state, *(word for home in homes for word in ("--new", home)))
    assert (again.code, again.out.count("Enrolled already: ")) == (0, 3)

    # One that cannot be enrolled keeps the others out, whichever comes first.
    assert pocketfed("enrol", "--state", state, "--revoke", read_public_key(keys[2]).fingerprint).code == 0
    fresh = tmp_path / "fresh"
    assert pocketfed("enrol", "--state", state, "--new", fresh, keys[2]).code == 2
    assert [phone.name for phone in enrolled(state)] == ["phone-0", "phone-1", "phone-2"]


@pytest.mark.parametrize("arguments", [[], ["--revoke", "SHA256:abc"]])
def test_a_mistyped_state_is_not_made(tmp_path: Path, pocketfed: Command, arguments: list[str]) -> None:
    shown = pocketfed("enrol", "--state", tmp_path / "sever", *arguments)
    assert shown.code == 2
    assert "sever is no state folder of a server, it has no fleet.db; name the server's own" in shown.err
    assert not (tmp_path / "sever").exists()


def test_enrolling_says_when_it_makes_the_state(tmp_path: Path, pocketfed: Command) -> None:
    state = tmp_path / "state"
    shown = [pocketfed("enrol", "--state", state, "--new", tmp_path / f"phone-{n}").out for n in (0, 1)]
    assert [f"Made the state folder {state}; the server needs the same --state." in out for out in shown] == [
        True,
        False,
    ]


@pytest.mark.parametrize("content", ["", "no key", "-----BEGIN EC PRIVATE KEY-----\n"])
def test_what_is_no_public_key_is_refused(tmp_path: Path, pocketfed: Command, content: str) -> None:
    (tmp_path / "key.pub").write_text(content)
    shown = pocketfed("enrol", "--state", tmp_path / "state", tmp_path / "key.pub")
    assert shown.code == 2
    assert "key.pub" in shown.err
    assert len(shown.err.strip().splitlines()) == 1
    assert pocketfed("enrol", "--state", tmp_path / "state", tmp_path / "absent.pub").code == 2

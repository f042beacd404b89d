"""`pocketfed serve` as a person meets it: every mistake is one clear message and exit code 2."""

import shutil
import signal
import socket
import stat
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from pocketfed.core.layout import Layout, Role, Slice
from pocketfed.server.certificates import make_certificates
from pocketfed.simulator import run_folder
from pocketfed.simulator.server_run import exclusive_state, open_run
from tests.conftest import Shown
from tests.simulator.deployed import bundle, settings


@pytest.fixture(autouse=True)
def _signals() -> Iterator[None]:
    """The command takes them over for good."""
    before = {name: signal.getsignal(name) for name in (signal.SIGTERM, signal.SIGINT)}
    yield
    for name, handler in before.items():
        signal.signal(name, handler)


def without_certificate(folder: Path) -> list[object]:
    return []


def with_too_much(folder: Path) -> list[object]:
    return ["--insecure", "--cert", "cert.pem", "--key", "key.pem"]


def with_half_of_it(folder: Path) -> list[object]:
    return ["--cert", "cert.pem"]


def missing_certificate(folder: Path) -> list[object]:
    return ["--cert", folder / "absent.pem", "--key", folder / "absent-key.pem"]


def anothers_key(folder: Path) -> list[object]:
    ours, theirs = make_certificates(folder / "ours"), make_certificates(folder / "theirs")
    return ["--cert", ours.server, "--key", theirs.server_key]


def certificate_of_last_year(folder: Path) -> list[object]:
    files = make_certificates(folder / "old", now=datetime.now(UTC) - timedelta(days=398))
    return ["--cert", files.server, "--key", files.server_key]


def missing_bundle(folder: Path) -> list[object]:
    return ["--insecure", "--bundle", folder / "absent"]


def damaged_bundle(folder: Path) -> list[object]:
    shutil.copytree(folder / "bundle", folder / "damaged")
    (folder / "damaged" / "train.pte").write_bytes(b"")
    return ["--insecure", "--bundle", folder / "damaged"]


def another_network(folder: Path) -> list[object]:
    layout = Layout((Slice("backbone.other", (10,), Role.BACKBONE, 0),))
    open_run(folder / "state", bundle(folder / "other", settings(2), layout), None, None, lambda text: None)
    return ["--insecure"]


def folder_of_a_simulation(folder: Path) -> list[object]:
    run_folder.create(folder / "run", settings(2))
    return ["--insecure", "--state", folder / "run"]


def mistakes_in_the_configuration(folder: Path) -> list[object]:
    (folder / "c.toml").write_text("[deployment]\nquorum = 7\ndeadline = 0\nsmell = 1\n")
    return ["--insecure", "--config", folder / "c.toml"]


def no_configuration(folder: Path) -> list[object]:
    return ["--insecure", "--config", folder / "absent.toml"]


def state_that_is_a_file(folder: Path) -> list[object]:
    (folder / "file").write_text("")
    return ["--insecure", "--state", folder / "file"]


def damaged_database(folder: Path) -> list[object]:
    (folder / "state").mkdir()
    (folder / "state" / "fleet.db").write_bytes(b"no database " * 1000)
    return ["--insecure"]


@pytest.fixture
def another_server(tmp_path: Path) -> Iterator[None]:
    """One that runs in `held`."""
    with exclusive_state(tmp_path / "held"):
        yield


def state_of_another_server(folder: Path) -> list[object]:
    return ["--insecure", "--state", folder / "held"]


def rounds_of_its_own(folder: Path) -> list[object]:
    return ["--insecure", "--upstream", "http://127.0.0.1:9", "--rounds", 3]


def half_an_upstream(folder: Path) -> list[object]:
    return ["--insecure", "--upstream-ca", "ca.pem"]


def an_upstream_in_the_open(folder: Path) -> list[object]:
    return ["--insecure", "--upstream", "http://192.0.2.1:8443"]


def no_upstream(folder: Path) -> list[object]:
    return ["--insecure", "--upstream", "192.0.2.1"]


def an_upstream_without_authority(folder: Path) -> list[object]:
    return ["--insecure", "--upstream", "https://192.0.2.1:8443", "--upstream-ca", folder / "absent.pem"]


@pytest.mark.usefixtures("another_server")
@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (without_certificate, ["--cert", "--insecure", "pocketfed certs"]),
        (with_too_much, ["not both"]),
        (with_half_of_it, ["--cert and --key belong together"]),
        (missing_certificate, ["absent.pem is no file; make a certificate with: pocketfed certs"]),
        (anothers_key, ["are no certificate with its key"]),
        (certificate_of_last_year, ["server.pem ended on", "pocketfed certs DIR --renew"]),
        (missing_bundle, ["absent is no bundle"]),
        (damaged_bundle, ["train.pte is not the file that the manifest describes"]),
        (another_network, ["belongs to a run of another network", "choose another --state"]),
        (folder_of_a_simulation, ["is the folder of a simulation", "choose another --state"]),
        (mistakes_in_the_configuration, ["deployment.quorum", "deployment.deadline", "deployment.smell"]),
        (no_configuration, ["absent.toml cannot be read"]),
        (state_that_is_a_file, ["cannot be used", "choose another --state"]),
        (state_of_another_server, ["another server runs in", "held; stop it, or choose another --state"]),
        (rounds_of_its_own, ["--rounds: an edge server's rounds come from --upstream"]),
        (half_an_upstream, ["go with --upstream"]),
        (an_upstream_in_the_open, ["is not encrypted", "--upstream-insecure"]),
        (no_upstream, ["192.0.2.1 is no address of a server"]),
        (an_upstream_without_authority, ["absent.pem holds no certificate"]),
        (damaged_database, ["fleet.db cannot be used (file is not a database)", "enrol all phones anew"]),
    ],
)
def test_mistakes_are_one_message_and_exit_code_2(
    make: Callable[[Path], list[object]],
    expected: list[str],
    tmp_path: Path,
    pocketfed: Callable[..., Shown],
) -> None:
    bundle(tmp_path / "bundle", settings(2))
    usual = ["--bundle", tmp_path / "bundle", "--state", tmp_path / "state", "--port", 0]
    shown = pocketfed("serve", *usual, *make(tmp_path))
    assert shown.code == 2, shown.err
    assert "Traceback" not in shown.err
    assert "Error: " in shown.err
    for text in expected:
        assert text in shown.err


@pytest.mark.parametrize(
    ("host", "warning", "modes"),
    [
        ("127.0.0.1", "Warning: --insecure: nothing is encrypted.", []),
        (
            "0.0.0.0",
            "Warning: --insecure beyond this machine: whoever is on the way can read and change weights.",
            [0o600],
        ),
    ],
)
def test_insecure_is_warned_of_and_beyond_this_machine_the_page_has_a_token(
    host: str, warning: str, modes: list[int], tmp_path: Path, pocketfed: Callable[..., Shown]
) -> None:
    made = bundle(tmp_path / "bundle", settings(2))
    with socket.create_server((host, 0)) as taken:  # so that the command ends
        port = taken.getsockname()[1]
        shown = pocketfed(
            "serve",
            "--bundle",
            made,
            "--state",
            tmp_path / "state",
            "--host",
            host,
            "--port",
            port,
            "--insecure",
        )
    assert warning in shown.err
    assert [stat.S_IMODE(file.stat().st_mode) for file in (tmp_path / "state").glob("page-token*")] == modes


def test_a_port_that_is_taken_is_named(tmp_path: Path, pocketfed: Callable[..., Shown]) -> None:
    made = bundle(tmp_path / "bundle", settings(2))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        shown = pocketfed(
            "serve", "--bundle", made, "--state", tmp_path / "state", "--port", port, "--insecure"
        )
    assert shown.code == 2
    assert f"cannot listen at 127.0.0.1:{port}" in shown.err
    assert "choose another --host or --port" in shown.err

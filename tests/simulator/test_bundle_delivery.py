"""A server's bundle on phones: offered, renewed by a later release, reported with updates; the wrong layout refused."""

import dataclasses
import itertools
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from pocketfed.core.atomic import write_atomically
from pocketfed.core.bundle import Contents, read_bundle, write_bundle
from pocketfed.core.errors import RunFolderError, UserError
from pocketfed.core.layout import Layout, Role, Slice
from pocketfed.core.release import PROGRAM
from pocketfed.core.signing import SigningKey, make_signing_key, public_path
from pocketfed.server.outcome import Kind
from pocketfed.simulator.bundles import make_bundle
from pocketfed.simulator.config import Config
from pocketfed.simulator.config_file import build_config, to_toml
from pocketfed.simulator.run_folder import RunFolder, read_metrics
from pocketfed.simulator.server_run import open_run
from pocketfed.simulator.state_bundle import BUNDLE, FORMER
from tests.conftest import Shown
from tests.simulator.capture_folders import make_captures
from tests.simulator.deployed import FEW, Server, bundle, fleet, page_says, settings
from tests.simulator.processes import Process, free_port


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> SigningKey:
    return make_signing_key(tmp_path_factory.mktemp("keys") / "release")


def silent(text: str) -> None:
    """Whatever takes long."""


def offered(server: Server) -> tuple[str, int]:
    said = httpx.get(f"{server.url}/bundle", trust_env=False).json()
    return said["id"], said["version"]


def test_a_server_offers_its_bundle_and_after_a_restart_a_later_release(
    tmp_path: Path, key: SigningKey
) -> None:
    one = bundle(tmp_path / "one", settings(2), key=key)
    two = bundle(tmp_path / "two", settings(2), key=key, version=2)
    state = tmp_path / "state"
    server = Server(state, one)
    server.place = dataclasses.replace(server.place, page_token="only for the page")
    with server:
        assert httpx.get(server.url, trust_env=False).status_code == 401
        assert offered(server) == (read_bundle(one).id, 1)
        program = f"{server.url}/bundles/{read_bundle(one).id}/train.pte"
        part = httpx.get(program, headers={"range": "bytes=3-"}, trust_env=False)
        assert (part.status_code, part.content) == (206, b"program")
        assert (
            httpx.get(program, headers={"if-none-match": part.headers["etag"]}, trust_env=False).content
            == b""
        )
    with Server(state, two) as server:
        assert offered(server) == (read_bundle(two).id, 2)
    kept = state / BUNDLE
    assert read_bundle(kept, key.public).version == 2
    shutil.rmtree(two)
    with Server(state, kept) as server:  # its own is not another one
        assert offered(server)[1] == 2
    with pytest.raises(RunFolderError, match="one is version 1, and phones may have version 2 of"):
        Server(state, one)
    unsigned = bundle(tmp_path / "again", settings(3), version=2)
    with pytest.raises(RunFolderError, match="release it with a higher one: pocketfed bundle --version"):
        Server(state, unsigned)
    assert read_bundle(kept, key.public).version == 2


class Killed(BaseException):
    """The process ends here."""


def end_at(step: int, patch: pytest.MonkeyPatch) -> None:
    """Let the process end before it moves or removes so many files and folders, and nothing happen on the disk from then
    on."""
    left = step

    def instead_of(real: Callable[..., object]) -> Callable[..., object]:
        def counted(*arguments: object, **named: object) -> object:
            nonlocal left
            left -= 1
            if left < 0:
                raise Killed
            return real(*arguments, **named)

        return counted

    for name in ("rename", "replace", "unlink", "rmdir"):
        patch.setattr(os, name, instead_of(getattr(os, name)))


def test_a_server_may_be_killed_at_any_moment_while_it_takes_over_a_release(
    tmp_path: Path, key: SigningKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Afterwards it has the former release or the later one, and takes none that is older."""
    one, two, three = (
        bundle(tmp_path / f"v{version}", settings(2), key=key, version=version) for version in (1, 2, 3)
    )
    begun = tmp_path / "begun"
    open_run(begun, two, None, None, silent)
    for step in itertools.count():
        state = tmp_path / str(step)
        shutil.copytree(begun, state)
        with monkeypatch.context() as patch:
            end_at(step, patch)
            try:
                open_run(state, three, None, None, silent)
                killed = False
            except Killed:
                killed = True
        with pytest.raises(RunFolderError, match=r"v1 is version 1, and phones may have version [23] of"):
            open_run(state, one, None, None, silent)
        assert read_bundle(state / BUNDLE, key.public).version in ((2, 3) if killed else (3,))
        assert open_run(state, three, None, None, silent).bundle.version == 3
        assert [path.name for path in state.iterdir() if "bundle" in path.name] == [BUNDLE]
        if not killed:
            break
    assert step > 10


def test_a_disk_that_is_full_leaves_the_release_that_a_server_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    two, state = bundle(tmp_path / "two", settings(2), version=2), tmp_path / "state"
    before = open_run(state, two, None, None, silent).bundle
    names = {path.name for path in state.iterdir()}
    written = 0

    def full(path: Path, content: bytes) -> None:
        nonlocal written
        written += 1
        if written == 3:
            raise OSError(28, "No space left on device")
        write_atomically(path, content)

    three = bundle(tmp_path / "three", settings(2), version=3)
    with monkeypatch.context() as patch:
        patch.setattr("pocketfed.core.bundle.write_atomically", full)
        with pytest.raises(RunFolderError, match=r"No space left on device.*; make room"):
            open_run(state, three, None, None, silent)
    assert read_bundle(state / BUNDLE) == before
    assert {path.name for path in state.iterdir()} == names  # what was written takes no room
    assert open_run(state, three, None, None, silent).bundle.version == 3


def test_a_link_in_the_place_of_a_servers_bundle_is_replaced_and_not_what_it_leads_to(tmp_path: Path) -> None:
    two, state = bundle(tmp_path / "two", settings(2), version=2), tmp_path / "state"
    open_run(state, two, None, None, silent)
    shutil.rmtree(state / BUNDLE)
    (state / BUNDLE).symlink_to(two)
    three = bundle(tmp_path / "three", settings(2), version=3)
    assert open_run(state, three, None, None, silent).bundle.version == 3
    assert (read_bundle(two).version, (state / BUNDLE).is_symlink()) == (2, False)
    assert [path.name for path in state.iterdir() if "bundle" in path.name] == [BUNDLE]


def test_what_lies_where_a_servers_bundle_is_to_go_is_not_replaced(tmp_path: Path) -> None:
    one, state = bundle(tmp_path / "one", settings(2)), tmp_path / "state"
    bundle(state / BUNDLE, settings(2))
    (state / BUNDLE / "notes.txt").write_text("years of work")
    before = {path: path.read_bytes() for path in (state / BUNDLE).iterdir()}
    with pytest.raises(RunFolderError, match=r"notes.txt is in no manifest.*; move it away, or choose"):
        open_run(state, one, None, None, silent)
    assert {path: path.read_bytes() for path in (state / BUNDLE).iterdir()} == before


def of_other_learning(folder: Path) -> tuple[Path, Config | None]:
    """The network's sizes are the same."""
    learning = settings(2).learning.model_copy(update={"batch": 4, "mode": "mixed"})
    return bundle(folder, settings(2).model_copy(update={"learning": learning}), version=2), None


def of_a_plugin(folder: Path) -> tuple[Path, Config | None]:
    made = read_bundle(bundle(folder, settings(2), version=2))
    contents = Contents(
        made.spec, made.read_layout(), made.weights, to_toml(settings(2)), {PROGRAM: made.program},
        {"plugins": [{"name": "toy.py", "sha256": "ab" * 32}]}, version=2,
    )  # fmt: skip
    return write_bundle(folder, contents).folder, None


def with_too_dear_privacy(folder: Path) -> tuple[Path, Config | None]:
    dear = {"noise_multiplier": 0.1, "clip": 1.0, "updates": 3, "epsilon": 0.01, "delta": 1e-5}
    return bundle(folder, settings(2), version=2), build_config({**settings(2).model_dump(), "privacy": dear})


def with_other_slices(folder: Path) -> tuple[Path, Config | None]:
    exchange = {"travels": ["backbone"]}
    config = build_config({**settings(2).model_dump(), "exchange": exchange})
    return bundle(folder, settings(2), version=2), config


def with_a_rule_that_has_no_room(folder: Path) -> tuple[Path, Config | None]:
    values = {
        **settings(2).model_dump(),
        "aggregator": "krum",
        "aggregation": {"memory_mb": 1, "byzantine": 100_000},
    }
    return bundle(folder, settings(2), version=2), build_config(values)


@pytest.mark.parametrize("stopped", [False, True])
@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (of_other_learning, "learning.batch: the bundle was made with 4"),
        (of_a_plugin, r"two was made with toy.py \(SHA-256 abab"),
        (with_too_dear_privacy, "privacy.epsilon: one round costs"),
        (with_a_rule_that_has_no_room, "memory_mb: this rule keeps all updates of a round"),
        (with_other_slices, "exchange.travels: the run was begun with"),
    ],
)
def test_a_release_that_is_refused_leaves_the_one_before(
    tmp_path: Path, make: Callable[[Path], tuple[Path, Config | None]], problem: str, stopped: bool
) -> None:
    """Also if a server was stopped while it took over another one."""
    one, state = bundle(tmp_path / "one", settings(2)), tmp_path / "state"
    begun = open_run(state, one, None, None, silent)
    two, config = make(tmp_path / "two")
    if stopped:
        (state / BUNDLE).rename(state / FORMER)
    with pytest.raises(UserError, match=problem):
        open_run(state, two, config, None, silent)
    assert read_bundle(state / BUNDLE).id == begun.bundle.id
    again = open_run(state, one, None, None, silent)
    assert (again.bundle.id, again.bundle.folder) == (begun.bundle.id, state / BUNDLE)


def test_updates_say_which_bundle_they_are_from_and_the_server_says_so_too(
    tmp_path: Path, key: SigningKey
) -> None:
    made, state = bundle(tmp_path / "bundle", settings(2), key=key), tmp_path / "state"
    ids = [read_bundle(made).id, read_bundle(made).id, "ab" * 32]
    with fleet(tmp_path) as phones, Server(state, made) as server:
        for phone, name in zip(phones, ids, strict=True):
            phone.bundle = name
            phone.start(server.url)
        server.result()
    expected = {ids[0]: 2, ids[2]: 1}
    assert [dict(outcome.bundles) for outcome in server.diary.outcomes] == [expected, expected]
    assert [record.get("bundles") for record in read_metrics(RunFolder(state), 9)] == [
        None,
        expected,
        expected,
    ]
    assert server.run.last.statuses == {}
    with Server(state, made, settings(3)) as again:  # the page remembers
        assert page_says(again.url, rf"{ids[0][:12]} \(2\), abababababab \(1\)")


def test_an_update_for_another_layout_is_refused_whatever_its_phone_said_before(tmp_path: Path) -> None:
    made = bundle(tmp_path / "bundle", settings(1, quorum=0.5))
    other = Layout((Slice("backbone.v", (1000,), Role.BACKBONE, 0),))
    with fleet(tmp_path) as phones, Server(tmp_path / "state", made) as server:
        phones[1].layout, phones[1].bundle = other.digest, "cd" * 32
        for phone in phones:
            phone.start(server.url)
        server.result()
    (outcome,) = server.diary.outcomes
    assert outcome.phones == FEW - 1
    (failure,) = outcome.failures
    assert (failure.phone, failure.kind) == (1, Kind.REFUSED)
    assert failure.reason == f"weights have the layout {other.digest[:12]!r}, not this run's"
    assert not outcome.bundles  # what did not count is not counted


@pytest.mark.parametrize("ways", [[], ["--trust", "key.pub", "--bundle", "bundle"]])
def test_one_way_to_a_bundle(ways: list[object], tmp_path: Path, pocketfed: Callable[..., Shown]) -> None:
    shown = pocketfed("phone", "--server", "http://127.0.0.1:9", "--captures", tmp_path, *ways)
    assert shown.code == 2
    assert "give --trust with the public key that signs the server's bundles, or --bundle" in shown.err


def test_a_key_that_is_none(tmp_path: Path, pocketfed: Callable[..., Shown]) -> None:
    make_signing_key(tmp_path / "release")
    for name, message in (
        ("release", "holds the private key; give the public one"),
        ("none", "cannot be read"),
    ):
        shown = pocketfed(
            "phone", "--server", "http://127.0.0.1:9", "--captures", tmp_path, "--trust", tmp_path / name
        )
        assert (shown.code, message in shown.err) == (2, True)


LATER = 4
"""Rounds by the end of the second server."""


@pytest.mark.long
def test_a_phone_with_nothing_but_a_public_key_takes_part_and_takes_over_a_release(tmp_path: Path) -> None:
    """Server and phone in processes of their own, real programs; the phone's process outlives the first bundle."""
    signer = make_signing_key(tmp_path / "release")
    make_captures(tmp_path / "captures", 16)
    photos = tmp_path / "captures" / "photos"
    config = build_config(
        {
            "rounds": 1,
            "captures": {"photos": str(photos), "side": 16},
            "learning": {"batch": 4},
            "deployment": {"minimum": 1},
        }
    )
    plain = make_bundle(config, None, tmp_path / "plain", silent)
    contents = Contents(
        plain.spec, plain.read_layout(), plain.weights, to_toml(config), {PROGRAM: plain.program}
    )
    made = [
        write_bundle(tmp_path / f"v{version}", dataclasses.replace(contents, version=version), signer)
        for version in (1, 2)
    ]
    port, state, home = free_port(), tmp_path / "state", tmp_path / "home"
    serving = ["--state", str(state), "--insecure", "--open", "--port", str(port)]
    servers = [
        Process(
            ["serve", "--bundle", str(one.folder), *serving, "--rounds", str(rounds)], tmp_path / "server.log"
        )
        for rounds, one in zip((1, LATER), made, strict=True)
    ]
    phone = Process(
        [
            "phone", "--server", f"http://127.0.0.1:{port}", "--trust", str(public_path(tmp_path / "release")),
            "--captures", str(photos), "--home", str(home), "--rounds", str(LATER), "--look-every", "1", "--threads", "2",
        ],
        tmp_path / "phone.log",
    )  # fmt: skip
    try:
        servers[0].start()
        phone.start()
        assert servers[0].end() == 0, (tmp_path / "server.log").read_text()
        servers[1].start()
        assert servers[1].end() == 0, (tmp_path / "server.log").read_text()
        assert phone.end() == 0
    finally:
        for process in (*servers, phone):
            process.clear()
    said = (tmp_path / "phone.log").read_text()
    for bundle_ in made:
        assert f"installed bundle {bundle_.id[:12]}, version {bundle_.version}" in said
        assert read_bundle(home / "bundles" / bundle_.id, signer.public).id == bundle_.id
    # A phone looks between rounds: the restarted server may ask it before it has looked.
    first, *counted = (record.get("bundles") for record in read_metrics(RunFolder(state), 9))
    assert first is None
    versions = [next(i for i, one in enumerate(made) if bundles == {one.id: 1}) for bundles in counted]
    assert versions == sorted(versions)
    assert (len(versions), versions[0], versions[-1]) == (LATER, 0, 1)
    assert json.loads((home / "bundles" / "current").read_text())["id"] == made[1].id

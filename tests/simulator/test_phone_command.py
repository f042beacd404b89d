"""`pocketfed phone` as a person meets it, at a real SuperLink, with a store and a policy that tests make."""

import io
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from pocketfed.core.errors import HomeError, ProgramError
from pocketfed.core.hyper import Hyper
from pocketfed.core.layout import Layout, Role, Slice
from pocketfed.core.modality import Modality
from pocketfed.core.plan import Plan
from pocketfed.core.program_spec import Input, ProgramSpec
from pocketfed.core.signing import make_signing_key
from pocketfed.core.wire import DECLINED, instruction_items, read_update, weights_to_bytes
from pocketfed.mobile_client.capture_store import CaptureStore
from pocketfed.mobile_client.phone import CaptureSource
from pocketfed.mobile_client.runtime import Array, ExecutorchRuntime
from pocketfed.simulator.phone_log import show_log
from tests.conftest import Shown
from tests.mobile_client.flower.superlink import SuperLink
from tests.simulator.deployed import wait_for

LAYOUT = Layout((Slice("backbone.w", (3,), Role.BACKBONE, 0),))
SPEC = ProgramSpec(3, 3, 4, {Modality.PHOTO: Input((2,), "uint8", 1)}, mixed=False, layout=LAYOUT.digest)


class Adder:
    """A runtime whose step adds one to every weight."""

    def __init__(self, program: bytes, threads: int) -> None: ...

    def run(self, method: str, inputs: Sequence[Array]) -> tuple[Array, ...]:
        theta, state = inputs[:2]
        return np.float32(0.5), theta + 1, state  # type: ignore[return-value]


class Store:
    """Four photos."""

    problem: str | None = None

    def __init__(self, folder: Path, spec: ProgramSpec, home: Path, quota: int, *, own: bool) -> None: ...

    def scan(self, between: Callable[[], None], /) -> None: ...

    def snapshot(self) -> Mapping[Modality, CaptureSource]:
        return {Modality.PHOTO: np.zeros((4, 2), np.uint8)}


@pytest.fixture
def bundle(tmp_path: Path) -> SimpleNamespace:
    """What a phone asks of a bundle; its program is none."""
    return SimpleNamespace(
        spec=SPEC, program=b"none", program_file=tmp_path, id="cd" * 32, version=1, manifest={}, folder=tmp_path,
        read_layout=lambda: LAYOUT,
    )  # fmt: skip


@pytest.fixture(autouse=True)
def parts(bundle: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Small things in place of a bundle, a runtime and a folder of captures."""
    monkeypatch.setattr("pocketfed.simulator.bundles.open_bundle", lambda path, made, tell: bundle)
    monkeypatch.setattr("pocketfed.mobile_client.flower.participation.ExecutorchRuntime", Adder)
    monkeypatch.setattr("pocketfed.mobile_client.flower.participation.CaptureStore", Store)
    before = {name: signal.getsignal(name) for name in (signal.SIGTERM, signal.SIGINT)}
    signal.signal(signal.SIGINT, signal.default_int_handler)  # what runs in the background ignores it
    yield
    for name, handler in before.items():
        signal.signal(name, handler)


@pytest.fixture
def flags(tmp_path: Path) -> list[object]:
    return ["--bundle", tmp_path, "--captures", tmp_path, "--home", tmp_path / "home", "--threads", 1]


def ask_when_online(server: SuperLink) -> threading.Thread:
    """Sends an instruction to the first phone that is online, and keeps its answer in the thread's name."""
    plan = Plan(3, 5, {Modality.PHOTO: 1}, mixed=False, hyper=Hyper())
    items = instruction_items(plan, weights_to_bytes(np.zeros(3, np.float32)), SPEC.layout)

    def ask() -> None:
        while not (nodes := server.state.get_nodes(server.run)):
            time.sleep(0.02)
        thread.question = server.ask(min(nodes), dict(items))  # type: ignore[attr-defined]

    thread = threading.Thread(target=ask)
    thread.start()
    return thread


def test_a_phone_answers_a_round_and_ends(
    flags: list[object], tmp_path: Path, pocketfed: Callable[..., Shown]
) -> None:
    server = SuperLink()
    thread = ask_when_online(server)
    shown = pocketfed("phone", "--server", server.url, *flags, "--rounds", 1)
    thread.join()
    answer: Any = server.answer(thread.question)  # type: ignore[attr-defined]
    server.stop()
    assert shown.code == 0, shown.err
    assert read_update(answer.content["update"]).weights.tolist() == [1.0, 1.0, 1.0]
    expected = [
        "is not encrypted",
        "phone ",
        "registered as node",
        "online at",
        "asked to train",
        "round 3: learnt",
    ]
    for text in [*expected, "answered train"]:
        assert text in shown.out
        assert text in (tmp_path / "home" / "log").read_text()
    assert all(line[2] == ":" for line in shown.out.splitlines())  # each begins with the time
    assert sorted(path.name for path in (tmp_path / "home").iterdir()) == [
        "journal", "key", "key.pub", "lock", "log", "node.json",
    ]  # fmt: skip


@pytest.fixture
def inbox(tmp_path: Path, bundle: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Six photos in a folder that a real store looks at, the oldest first; three of them are less than a megabyte."""
    monkeypatch.setattr("pocketfed.mobile_client.flower.participation.CaptureStore", CaptureStore)
    bundle.spec = replace(SPEC, inputs={Modality.PHOTO: Input((256, 256, 3), "uint8", 1)})
    (tmp_path / "inbox").mkdir()
    rng, paths = np.random.default_rng(0), [tmp_path / "inbox" / f"{index}.png" for index in range(6)]
    for index, path in enumerate(paths):
        Image.fromarray(rng.integers(0, 256, (300, 300, 3), dtype=np.uint8)).save(path)
        os.utime(path, (1_700_000_000 + index,) * 2)
    assert 3 * paths[0].stat().st_size < 1_000_000 < 4 * paths[0].stat().st_size
    return paths


def refusing(folder: Path) -> tuple[Path, Path]:
    """A policy that asks for power, and the state file of a phone that has none."""
    policy, state = folder / "policy.toml", folder / "state.json"
    policy.write_text('charging = true\nstate = "state.json"\n')
    state.write_text('{"charging": false}')
    return policy, state


KEPT = [False, False, False, True, True, True]


def test_a_phone_keeps_to_its_policy_and_its_quota(
    flags: list[object], inbox: list[Path], tmp_path: Path, pocketfed: Callable[..., Shown]
) -> None:
    """Asked while it may not train, it declines, and keeps its inbox small; asked again, it trains on what is left."""
    policy, state = refusing(tmp_path)
    server = SuperLink()
    answers: list[Any] = []

    def ask_once() -> None:
        thread = ask_when_online(server)
        thread.join()

        def answered() -> bool:
            if (answer := server.answer(thread.question)) is not None:  # type: ignore[attr-defined]
                answers.append(answer)
            return answer is not None

        wait_for(answered, "an answer")

    def ask_twice() -> None:
        try:
            ask_once()
            wait_for(
                lambda: "captures: none" in (tmp_path / "home" / "log").read_text(), "a look at the inbox"
            )
            assert [path.exists() for path in inbox] == KEPT
            state.write_text('{"charging": true}')
            ask_once()
        except AssertionError:
            os.kill(os.getpid(), signal.SIGTERM)
            raise

    asking = threading.Thread(target=ask_twice)
    asking.start()
    given = ["--policy", policy, "--captures", tmp_path / "inbox", "--inbox", "--quota-mb", 1]
    shown = pocketfed("phone", "--server", server.url, *flags, *given, "--rounds", 2)
    asking.join()
    server.stop()
    assert shown.code == 0, shown.err
    declined, trained = answers
    assert (declined.error.code, declined.error.reason) == (DECLINED, "not charging")
    assert read_update(trained.content["update"]).examples == 3
    assert [path.exists() for path in inbox] == KEPT
    assert "captures: 3 photos" in shown.out
    assert shown.out.count("asked to train") == 1  # what is declined is not even fetched


def test_an_inbox_is_kept_small_while_the_server_is_away(
    flags: list[object], inbox: list[Path], tmp_path: Path, pocketfed: Callable[..., Shown]
) -> None:
    def end() -> None:
        try:
            wait_for(lambda: not inbox[0].exists(), "a look at the inbox")
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    ending = threading.Thread(target=end)
    ending.start()
    given = ["--captures", tmp_path / "inbox", "--inbox", "--quota-mb", 1]
    assert pocketfed("phone", "--server", "http://127.0.0.1:9", *flags, *given).code == 0
    ending.join()
    assert [path.exists() for path in inbox] == KEPT


def test_a_new_phone_asks_for_no_bundle_before_its_policy_allows_it(
    tmp_path: Path, pocketfed: Callable[..., Shown]
) -> None:
    log = tmp_path / "home" / "log"
    policy, _ = refusing(tmp_path)
    make_signing_key(tmp_path / "release")

    def end() -> None:
        try:
            wait_for(
                lambda: log.is_file() and "there is no bundle yet" in log.read_text(), "a word on bundles"
            )
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    ending = threading.Thread(target=end)
    ending.start()
    shown = pocketfed(
        "phone", "--server", "http://127.0.0.1:9", "--trust", tmp_path / "release.pub", "--captures", tmp_path,
        "--home", tmp_path / "home", "--policy", policy,
    )  # fmt: skip
    ending.join()
    assert shown.code == 0
    assert "no look at the server's bundle: not charging; there is no bundle yet" in shown.out


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_a_phone_that_waits_for_its_server_is_ended_cleanly(
    sent: signal.Signals, code: int, flags: list[object], pocketfed: Callable[..., Shown]
) -> None:
    timer = threading.Timer(1.5, os.kill, (os.getpid(), sent))
    timer.start()
    shown = pocketfed("phone", "--server", "http://127.0.0.1:9", *flags)
    timer.join()
    assert shown.code == code
    assert "Start again with the same --home to go on" in shown.out
    assert "Traceback" not in shown.out + shown.err


def test_an_unknown_phone_is_told_how_to_be_enrolled(
    flags: list[object], pocketfed: Callable[..., Shown]
) -> None:
    server = SuperLink(auth=True)
    shown = pocketfed("phone", "--server", server.url, *flags)
    server.stop()
    assert shown.code == 2
    assert (
        "pocketfed enrol --state STATE key.pub, where key.pub, of the phone's home, holds: ecdsa-sha2-nistp256 "
        in shown.err
    )


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["--server", "http://192.0.2.1:8000"], "--insecure"),
        (["--server", "http://127.0.0.1.phone.test"], "--insecure"),
        (["--server", "192.0.2.1"], "no address of a server"),
        (["--server", "https://192.0.2.1:port"], "no address of a server"),
        (["--server", "ftp://192.0.2.1"], "no address of a server"),
        (["--server", "https://192.0.2.1", "--ca", "absent.pem"], "absent.pem"),
        (["--server", "https://192.0.2.1", "--home", "/dev/null"], "/dev/null"),
        (["--server", "https://192.0.2.1", "--captures", "/captuers"], "/captuers is no folder; make it"),
    ],
)
def test_mistakes_are_one_sentence_and_exit_code_2(
    given: list[object], expected: str, flags: list[object], pocketfed: Callable[..., Shown]
) -> None:
    shown = pocketfed("phone", *flags, *given)
    assert shown.code == 2
    assert expected in shown.err
    assert len(shown.err.strip().splitlines()) == 1


def test_a_bundle_that_is_of_no_use_here_is_one_sentence(
    flags: list[object],
    bundle: SimpleNamespace,
    pocketfed: Callable[..., Shown],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("pocketfed.mobile_client.flower.participation.ExecutorchRuntime", ExecutorchRuntime)

    def try_out(*_: object) -> int:
        raise ProgramError("train.pte cannot be tried on 1 threads: killed")

    monkeypatch.setattr("pocketfed.mobile_client.threads.remembered_threads", try_out)
    said = []
    for made_with, given in (("0.1", flags), ("0.1", flags[:-2]), ("999.0", flags)):
        bundle.manifest = {"made_with": {"executorch": made_with}}
        shown = pocketfed("phone", "--server", "http://127.0.0.1:9", *given)
        assert shown.code == 2
        assert "Traceback" not in shown.err
        said.append(
            shown.err.strip().splitlines()[-1]
        )  # before that, only here, what the runtime says of processors
    of_no_use = f"bundle {bundle.id[:12]} is of no use on this phone: "
    assert f"{of_no_use}the program cannot be loaded: " in said[0]
    assert f"{of_no_use}train.pte cannot be tried on 1 threads: killed; use one that this version" in said[1]
    assert "was made with executorch 999.0, and the runtime here is older" in said[2]


def test_a_key_that_others_may_read_is_refused(
    flags: list[object], tmp_path: Path, pocketfed: Callable[..., Shown]
) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "key").write_text("x")
    (tmp_path / "home" / "key").chmod(0o644)
    shown = pocketfed("phone", "--server", "http://127.0.0.1:9", *flags)
    assert shown.code == 2
    assert "chmod 600" in shown.err


def test_help_teaches(pocketfed: Callable[..., Shown], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    shown = pocketfed("phone", "--help")
    assert shown.code == 0
    for flag in (
        "--server", "--bundle", "--captures", "--home", "--ca", "--policy", "--number", "--heartbeat", "--rounds",
        "--insecure",
    ):  # fmt: skip
        assert flag in shown.out


def test_what_a_server_says_cannot_take_over_the_terminal(tmp_path: Path) -> None:
    console = Console(file=io.StringIO(), width=80)
    with show_log(console, tmp_path / "log") as log:
        log.warning("it says [red]%s", "\x1b[2J\nINFO all is well")
    for text in (console.file.getvalue(), (tmp_path / "log").read_text()):  # type: ignore[attr-defined]
        assert "it says [red]\ufffd[2J\ufffdINFO all is well" in text
        assert "\x1b" not in text


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a disk that is always full")
def test_a_log_that_the_disk_does_not_take_is_on_the_terminal_only(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = io.StringIO()
    with show_log(Console(file=output), Path("/dev/full")) as log:
        log.info("online")
    assert output.getvalue().endswith("online\n")
    assert capsys.readouterr().err == ""  # where logging puts tracebacks of its own
    with (
        pytest.raises(HomeError, match="nowhere/log cannot be written"),
        show_log(Console(file=output), tmp_path / "nowhere" / "log"),
    ):
        pass

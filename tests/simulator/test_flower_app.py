"""The same server and phone as a stock Flower app: unmodified SuperLink and SuperNode, and a phone of ours among them.

The other way to run them, our own server with Flower's Fleet API inside, has its tests in
tests/server/test_fleet_grid.py and tests/simulator/test_engines_agree.py.
"""

import itertools
import json
import math
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Context, Message, RecordDict

from pocketfed.core.errors import ConfigError
from pocketfed.core.formats import Format
from pocketfed.core.role import Role
from pocketfed.core.travel import Travel
from pocketfed.core.wire import weights_to_bytes
from pocketfed.server.aggregators import Broadcast
from pocketfed.server.checkpoint import load_checkpoint, path_of
from pocketfed.server.decoding import decoded
from pocketfed.server.flower_private import act_as_server
from pocketfed.server.guard import Guard
from pocketfed.server.messages import ask_status, pack_instruction, unpack_update
from pocketfed.simulator.bundles import make_bundle
from pocketfed.simulator.config import Config
from pocketfed.simulator.config_file import build_config
from pocketfed.simulator.flower_phone import client_app
from pocketfed.simulator.flower_server import server_app
from pocketfed.simulator.plans import plan_of
from tests.conftest import REPOSITORY
from tests.mobile_client.flower.superlink import SuperLink
from tests.server.scripted_grid import ScriptedGrid
from tests.simulator import deployed
from tests.simulator.capture_folders import make_captures, write_captures
from tests.simulator.live_phone import live_phone
from tests.small_network import SMALL

ROUNDS = 2
PATIENCE = 240.0
"""Seconds that a whole run may take; each message to a SuperNode starts a process anew."""


@dataclass
class Processes:
    """Commands that run beside the test, each with a log; `end` leaves none of them, nor of what they started."""

    folder: Path
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    commands: list[list[str]] = field(default_factory=list)

    def start(self, name: str, *words: object) -> subprocess.Popen[bytes]:
        """Start a command that was installed beside this Python."""
        self.commands.append([str(word) for word in words])
        command = [str(Path(sys.executable).parent / str(words[0])), *map(str, words[1:])]
        with (self.folder / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                command, env=self.environment, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log,
                stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        self.running[name] = process
        return process

    @property
    def environment(self) -> dict[str, str]:
        """This one's, with a home for Flower of its own; by that, whatever they start is known."""
        return {
            **os.environ,
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
            "FLWR_HOME": str(self.folder / "flower"),
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
        }

    def wait(self, name: str, done: Callable[[], bool], seconds: float) -> None:
        """Wait until something is true.

        Raises:
            AssertionError: it was not in time, or a process ended; with what all of them said.
        """
        until = time.monotonic() + seconds
        while not done():
            ended = [key for key, process in self.running.items() if process.poll() not in (None, 0)]
            assert not ended, f"{ended} ended\n{self.said()}"
            assert time.monotonic() < until, f"no {name} within {seconds:.0f} seconds\n{self.said()}"
            time.sleep(0.1)

    def said(self) -> str:
        """The end of every log."""
        logs = sorted(self.folder.glob("*.log"))
        return "\n".join(f"--- {log.name}\n{log.read_text(errors='replace')[-6000:]}" for log in logs)

    def end(self) -> None:
        """End every process; a SuperLink and a SuperNode end their own when they are asked to."""
        for process in self.running.values():
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
        for process in self.running.values():
            with suppress(subprocess.TimeoutExpired):
                process.wait(10)
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        for pid in self._left():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _left(self) -> list[int]:
        """Processes of these that have a session of their own; Linux says so."""
        mark, found = f"FLWR_HOME={self.folder / 'flower'}".encode(), []
        for place in Path("/proc").glob("[0-9]*/environ"):
            with suppress(OSError):
                if mark in place.read_bytes().split(b"\0"):
                    found.append(int(place.parent.name))
        return found


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    """Ended with the test, however it ends."""
    (tmp_path / "flower").mkdir()
    started = Processes(tmp_path)
    yield started
    started.end()


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens at now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def answers(port: int) -> bool:
    with suppress(OSError):
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
        return True
    return False


def settings(**values: object) -> str:
    """As Flower reads them: strings in quotes."""
    return " ".join(
        f"{key}={value if isinstance(value, int) else json.dumps(str(value))}"
        for key, value in values.items()
    )


def two_phones(files: Path, small: Path | None = None, **deployment: Any) -> Config:
    """Both hold photos and sounds; with the network of the plug-in `small` in place of the default."""
    return build_config(
        {
            "plugins": [str(small)] if small else [],
            "rounds": ROUNDS,
            "captures": {"side": 16, "seconds": 0.25, **make_captures(files)},
            "fleet": {"phones": 2, "alpha": 1.0, "photos_only": 0.0, "sounds_only": 0.0},
            "learning": {"batch": 8, "learning_rate": 0.01, "backbone": "small" if small else "compact"},
            "deployment": {"deadline": 120.0, "attempts": 1, "patience": 120.0, **deployment},
        }
    )


@pytest.mark.long
def test_a_stock_run_counts_a_supernode_and_a_phone_in_every_round(
    processes: Processes, tmp_path: Path
) -> None:
    config = two_phones(tmp_path / "files", minimum=2)
    bundle = make_bundle(config, None, tmp_path / "bundle", lambda text: None)
    captures = write_captures(config, tmp_path / "captures")
    link, node = free_ports(2)
    (tmp_path / "flower" / "config.toml").write_text(
        f'[superlink]\ndefault = "here"\n[superlink.here]\naddress = "127.0.0.1:{link}"\ninsecure = true\n'
    )
    processes.start(
        "superlink", "flower-superlink", "--insecure", "--host", "127.0.0.1", "--port", link,
        "--disable-runtime-dependency-installation",
    )  # fmt: skip
    processes.wait("SuperLink", lambda: answers(link), 60)
    mine = settings(bundle=bundle.folder, captures=captures[0], home=tmp_path / "node", number=0, threads=1)
    processes.start(
        "supernode", "flower-supernode", "--insecure", "--superlink", f"127.0.0.1:{link}", "--host", "127.0.0.1",
        "--port", node, "--node-config", mine,
    )  # fmt: skip
    state = tmp_path / "state"
    run = processes.start(
        "run", "flwr", "run", REPOSITORY / "configs" / "flower-app", "here", "--stream", "-c",
        settings(bundle=bundle.folder, state=state),
    )  # fmt: skip
    with live_phone(f"http://127.0.0.1:{link}", 1, bundle, captures[1], tmp_path / "phone", ROUNDS):
        processes.wait("end of the run", lambda: run.poll() == 0, PATIENCE)

    assert (state / "metrics.jsonl").is_file(), processes.said()
    records = [json.loads(line) for line in (state / "metrics.jsonl").read_text().splitlines()]
    assert [(record["round"], record["phones"], record["failures"]) for record in records] == [
        (0, 0, 0), (1, 2, 0), (2, 2, 0),
    ], processes.said()  # fmt: skip
    for record in records[1:]:
        assert set(record["loss"]) == {"photo", "sound"}
        assert all(math.isfinite(loss) for loss in record["loss"].values())
    weights = [
        load_checkpoint(path_of(state / "checkpoints", number)).weights for number in range(ROUNDS + 1)
    ]
    assert np.array_equal(weights[0], bundle.weights)
    for before, after in itertools.pairwise(weights):
        assert np.isfinite(after).all()
        assert np.abs(after - before).max() > 1e-4
    assert "round finished" in (tmp_path / "run.log").read_text()
    check_documented(processes)


def check_documented(processes: Processes) -> None:
    """docs/flower-app.md has the commands that were run, with the same options."""
    page = (REPOSITORY / "docs" / "flower-app.md").read_text().replace("\\\n", " ")
    for words in processes.commands:
        (line,) = re.findall(rf"^{words[0]} .*$", page, flags=re.MULTILINE)
        assert options(shlex.split(line)) == options(words)


def options(words: Sequence[str]) -> list[str]:
    """Of a command, without their values."""
    return [word for word in words if word.startswith("-")]


@pytest.mark.long
def test_a_run_goes_on_where_it_stopped(tmp_path: Path) -> None:
    """The app on Flower's grid and server, without the processes in between."""
    config = two_phones(tmp_path / "files", minimum=1)
    bundle = make_bundle(config, None, tmp_path / "bundle", lambda text: None)
    captures = write_captures(config, tmp_path / "captures")
    settings = {"bundle": str(bundle.folder), "state": str(tmp_path / "state"), "config": ""}
    superlink = SuperLink()
    with live_phone(superlink.url, 0, bundle, captures[0], tmp_path / "phone", ROUNDS):
        for rounds in (1, ROUNDS):
            server_app(superlink.grid, context(run_config={**settings, "rounds": rounds}))
    superlink.stop()
    lines = (tmp_path / "state" / "metrics.jsonl").read_text().splitlines()
    assert [(record["round"], record["phones"]) for record in map(json.loads, lines)] == [
        (0, 0),
        (1, 1),
        (2, 1),
    ]
    logged = (tmp_path / "state" / "server.log").read_text()
    assert logged.count("round finished") == ROUNDS


def test_a_supernode_takes_part_in_small_updates_and_remembers(tmp_path: Path) -> None:
    """Flower starts a process for every message: what a phone remembers is in its home."""
    (tmp_path / "small.py").write_text(SMALL)
    config = two_phones(tmp_path / "files", small=tmp_path / "small.py", minimum=1)
    bundle = make_bundle(config, None, tmp_path / "bundle", lambda text: None)
    captures = write_captures(config, tmp_path / "captures")
    for path in captures[0].rglob("*.*"):
        os.utime(path, (0, 0))  # a phone waits until a file is no longer written
    mine = {
        "bundle": str(bundle.folder), "captures": str(captures[0]), "home": str(tmp_path / "home"), "number": 0,
        "threads": 1,
    }  # fmt: skip
    travel = Travel((Role.BACKBONE,), up=Format.INT8)
    layout = bundle.read_layout().part(travel.roles)
    weights = bundle.read_layout().gather(bundle.weights, travel.roles)
    begun = Broadcast(weights, layout, 1)
    content = pack_instruction(plan_of(config, 1, "a run"), weights_to_bytes(weights), layout.digest, travel)
    act_as_server(1)
    answer = client_app(Message(content, 2, "train", ttl=60.0), context(node_config=mine))
    update = Guard().check(decoded(unpack_update(answer), begun, travel), begun)
    assert np.abs(update.weights - weights).max() > 1e-4
    assert [path.name for path in (tmp_path / "home" / "memory").iterdir()] == ["round-00001.safetensors"]


def context(**values: Any) -> Context:
    """What Flower gives an app."""
    given = {"node_config": {}, "run_config": {}, **values}
    return Context(run_id=1, node_id=2, state=RecordDict(), **given)


def test_the_server_says_at_once_all_that_is_missing() -> None:
    defaults = {"bundle": "", "state": "", "config": "", "rounds": 0}
    with pytest.raises(
        ConfigError, match=r"bundle: is missing; give it with flwr run -c(.|\n)*state: is missing"
    ):
        server_app(ScriptedGrid({}), context(run_config=defaults))
    wrong = {"bundle": "bundle", "state": "/nowhere", "config": "mine.toml", "rounds": -1}
    with pytest.raises(ConfigError) as refusal:
        server_app(ScriptedGrid({}), context(run_config=wrong))
    assert refusal.value.problems == (
        "bundle: give an absolute path (got 'bundle')",
        "config: give an absolute path (got 'mine.toml')",
        "rounds: give a whole number, not negative (got -1)",
    )


def test_late_answers_cannot_count_in_a_stock_run(tmp_path: Path) -> None:
    made = deployed.bundle(tmp_path / "bundle", deployed.settings(1, late="count"))
    given = {"bundle": str(made), "state": str(tmp_path / "state"), "config": "", "rounds": 0}
    with pytest.raises(ConfigError, match=r'deployment\.late: a stock run can only "refuse"'):
        server_app(ScriptedGrid({}), context(run_config=given))
    assert not (tmp_path / "state" / "config.toml").exists(), "what is refused begins no run"


def test_a_supernode_that_was_told_too_little_says_so_to_the_server(caplog: pytest.LogCaptureFixture) -> None:
    act_as_server(1)
    reason = client_app(
        ask_status(2), context(node_config={"bundle": "/nowhere", "number": "one"})
    ).error.reason
    assert reason is not None
    for text in (
        "captures: is missing; give it with flower-supernode",
        "home: is missing",
        "number: give a whole",
    ):
        assert text in reason
        assert text in caplog.text

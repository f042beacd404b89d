"""A deployed server on a bundle of no network at all, and phones whose work a test can stop; all on loopback."""

import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import httpx
import numpy as np
from numpy.typing import NDArray

from pocketfed.core.bundle import Contents, write_bundle
from pocketfed.core.errors import PocketfedError
from pocketfed.core.layout import Layout, Role, Slice
from pocketfed.core.modality import Modality
from pocketfed.core.plan import PhoneStatus, Update
from pocketfed.core.program_spec import Input, ProgramSpec
from pocketfed.core.release import PROGRAM
from pocketfed.core.signing import SigningKey
from pocketfed.core.wire import INSTRUCTION, STATUS, UPDATE, read_instruction, status_items, update_items
from pocketfed.mobile_client.connection import Retry, trust
from pocketfed.mobile_client.flower.agent import Agent, Pace
from pocketfed.mobile_client.flower.calls import Caller
from pocketfed.mobile_client.flower.clock import ServerClock
from pocketfed.mobile_client.flower.fleet import Fleet
from pocketfed.mobile_client.flower.home import Home
from pocketfed.mobile_client.flower.journal import Journal
from pocketfed.mobile_client.flower.key import load_or_create_key
from pocketfed.mobile_client.flower.membership import Membership
from pocketfed.mobile_client.flower.objects import Records
from pocketfed.mobile_client.flower.task import Task
from pocketfed.server.outcome import Outcome
from pocketfed.server.serving import Tls
from pocketfed.server.watch.metrics import Metrics
from pocketfed.server.watch.scoreboard import Scoreboard
from pocketfed.server.watch.snapshot import Snapshot
from pocketfed.server.watch.watcher import Everyone, ServerWatcher
from pocketfed.simulator.config import Config
from pocketfed.simulator.config_file import build_config, to_toml
from pocketfed.simulator.deployment import Place, serve
from pocketfed.simulator.server_run import open_run

SIZE = 1000
START = np.linspace(1, 2, SIZE, dtype=np.float32)
LAYOUT = Layout((Slice("backbone.w", (SIZE,), Role.BACKBONE, 0),))
FEW = 3
"""Phones of a fleet, and without which no round begins."""


def settings(rounds: int, **deployment: Any) -> Config:
    """A round needs all phones, and waits for none of them for long."""
    wanted = {"minimum": FEW, "over_selection": 0.0, "quorum": 1.0, "deadline": 60.0, "patience": 60.0}
    return build_config({"rounds": rounds, "deployment": wanted | deployment})


def bundle(
    folder: Path, config: Config, layout: Layout = LAYOUT, key: SigningKey | None = None, version: int = 1
) -> Path:
    """A bundle whose program nobody can run, nor needs to."""
    inputs = {Modality.PHOTO: Input((2,), "uint8", 1)}
    spec = ProgramSpec(layout.size, layout.size, 4, inputs, mixed=False, layout=layout.digest)
    files = {PROGRAM: b"no program"}
    contents = Contents(spec, layout, START[: layout.size], to_toml(config), files, version=version)
    return write_bundle(folder, contents, key).folder


def learnt(weights: NDArray[Any], round_number: int, number: int) -> NDArray[Any]:
    """What a phone makes of weights: another thing in each round, and no sum of what others make."""
    return weights * (1 + 0.01 * (number + 1)) + 0.1 * round_number


def expected(rounds: int, phones: int = FEW) -> NDArray[np.float64]:
    """The weights of a run that nobody disturbs, in plain float64."""
    weights = START.astype(np.float64)
    for round_number in range(1, rounds + 1):
        weights = np.mean([learnt(weights, round_number, number) for number in range(phones)], axis=0)
    return weights


def assert_close(weights: NDArray[Any], wanted: NDArray[Any]) -> None:
    """To one part in a million: the order of answers may differ, and with it the last bit of a sum."""
    np.testing.assert_allclose(weights, wanted, rtol=1e-6)


@dataclass
class Phone:
    """A phone in threads of this process, whose key, node and journal are on disk.

    Attributes:
        number: of the phone.
        folder: its home.
        ca: whom it trusts, for https.
        now: its clock.
        stops_at: the round whose instruction it has begun and does not answer before it is let go.
        stopped: set when it has come to that point.
        fault: with which it ended, if it did.
        bundle: id of its bundle.
        layout: that its updates claim to have; None for that of the instruction.
    """

    number: int
    folder: Path
    ca: Path | None = None
    now: Callable[[], float] = time.time
    stops_at: int | None = None
    stopped: threading.Event = field(default_factory=threading.Event)
    fault: BaseException | None = None
    agent: Agent | None = None
    bundle: str = ""
    layout: str | None = None
    _go: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None
    _caller: Caller | None = None

    @property
    def home(self) -> Home:
        """Where its key is."""
        self.folder.mkdir(parents=True, exist_ok=True)
        return Home(self.folder)

    def start(self, url: str) -> None:
        """Join the server and work until told to stop."""
        self.fault = None
        key = load_or_create_key(self.home.key)
        verify = trust(self.ca) if url.startswith("https") else None
        self._caller = Caller(
            url, key, ServerClock(self.now), verify, retry=Retry(tries=2, first=0.05, most=0.1)
        )
        fleet = Fleet(self._caller)
        membership = Membership(fleet, self.home.node, 60)
        self.agent = Agent(fleet, membership, Journal(self.home.journal), self.work, Pace(0.02, 0.2))
        self._thread = threading.Thread(target=self._run, args=(self.agent,), daemon=True)
        self._thread.start()

    def _run(self, agent: Agent) -> None:
        try:
            agent.run()
        except (PocketfedError, RuntimeError) as error:  # httpx says so when a client is closed
            self.fault = error

    def work(self, task: Task) -> Records:
        """See `learnt`."""
        if task.kind == "query":
            status = PhoneStatus(self.number, {Modality.PHOTO: 8}, layout=LAYOUT.digest, bundle=self.bundle)
            return {STATUS: status_items(status)}
        asked = read_instruction(task.records[INSTRUCTION])
        if self.stops_at == asked.plan.round:
            self.stopped.set()
            self._go.wait(60)
        weights = learnt(asked.weights, asked.plan.round, self.number).astype(np.float32)
        layout = asked.layout if self.layout is None else self.layout
        update = Update(weights, 8, {Modality.PHOTO: 8}, {}, asked.plan.round, layout, bundle=self.bundle)
        return {UPDATE: update_items(update)}

    def stop_at(self, round_number: int) -> None:
        """Do not answer in this round."""
        self._go.clear()
        self.stopped.clear()
        self.stops_at = round_number

    def go_on(self) -> None:
        """Answer, now and later."""
        self.stops_at = None
        self._go.set()

    def vanish(self) -> None:
        """As if its process was killed at work: it says nothing, and its journal stays as it is."""
        if self._caller is not None:
            self._caller.__exit__(None, None, None)
        self.leave()

    def leave(self) -> None:
        """End its threads."""
        self.go_on()
        if self._caller is not None and self._thread is not None:
            self._caller.__exit__(None, None, None)
            self._thread.join(10)


@contextmanager
def fleet(folder: Path, count: int = FEW) -> Iterator[list[Phone]]:
    """Phones 0 to count - 1, not yet started."""
    phones = [Phone(number, folder / f"phone-{number}") for number in range(count)]
    try:
        yield phones
    finally:
        for phone in phones:
            phone.leave()


class Diary(ServerWatcher):
    """What a server said."""

    def __init__(self) -> None:
        self.outcomes: list[Outcome] = []
        self.troubles: list[str] = []
        self.upstreams: list[str | None] = []
        self.saves: list[int] = []
        self.on_finished: Callable[[Outcome], None] = lambda outcome: None

    def finished(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)
        self.on_finished(outcome)

    def trouble(self, text: str) -> None:
        self.troubles.append(text)

    def upstream(self, problem: str | None) -> None:
        self.upstreams.append(problem)

    def saved(self, round_number: int, seconds: float) -> None:
        self.saves.append(round_number)


class Server:
    """`pocketfed serve` without its command, in a thread."""

    def __init__(
        self,
        state: Path,
        bundle: Path,
        config: Config | None = None,
        tls: Tls | None = None,
        enrolled_only: bool = False,
        port: int = 0,
    ) -> None:
        self.diary, self.stop = Diary(), threading.Event()
        self.run = open_run(state, bundle, config, None, lambda text: None)
        self.place = Place("127.0.0.1", port, tls, enrolled_only)
        self.scoreboard = Scoreboard(self.run.config.rounds, self.run.config.deployment.deadline)
        self.weights: NDArray[np.float32] | None = None
        self.fault: BaseException | None = None
        self._url = ""
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def _serve(self) -> None:
        metrics = Metrics()
        watcher = Everyone(metrics, self.scoreboard, self.diary)
        try:
            self.weights = serve(
                self.run, self.place, watcher, metrics, self.scoreboard, self._go, self.stop.is_set
            )
        except Exception as error:  # noqa: BLE001 - for the thread that waits
            self.fault = error
            self._ready.set()

    def _go(self, url: str) -> None:
        self._url = url
        self._ready.set()

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(30)
        if self.fault is not None:
            raise self.fault
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self._thread.join(30)
        assert not self._thread.is_alive()

    @property
    def url(self) -> str:
        """Where phones go."""
        return self._url

    @property
    def port(self) -> int:
        """For a server in its place."""
        return int(self._url.rpartition(":")[2])

    @property
    def shown(self) -> Snapshot:
        """What its page shows."""
        return self.scoreboard.snapshot()

    def result(self, within: float = 60.0) -> NDArray[np.float32]:
        """The weights when all rounds are finished."""
        self._thread.join(within)
        assert not self._thread.is_alive(), f"still {self.shown.stage} in round {self.shown.round}"
        if self.fault is not None:
            raise self.fault
        assert self.weights is not None
        return self.weights


def wait_for(met: Callable[[], object], what: str, within: float = 60.0) -> None:
    """Until a condition holds."""
    until = time.monotonic() + within
    while not met():
        assert time.monotonic() < until, f"{what}: not within {within:.0f} s"
        time.sleep(0.02)


def page_says(url: str, pattern: str) -> bool:
    """Whether the page of a server that runs shows something."""
    with suppress(httpx.TransportError):
        return re.search(pattern, httpx.get(url, trust_env=False).text) is not None
    return False

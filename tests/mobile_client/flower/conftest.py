"""Servers and phones for the tests of the wire."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from pocketfed.core.wire import Value
from pocketfed.mobile_client.connection import Retry
from pocketfed.mobile_client.flower.agent import Agent, Pace
from pocketfed.mobile_client.flower.calls import Caller
from pocketfed.mobile_client.flower.clock import ServerClock
from pocketfed.mobile_client.flower.fleet import Fleet
from pocketfed.mobile_client.flower.journal import Journal
from pocketfed.mobile_client.flower.key import load_or_create_key
from pocketfed.mobile_client.flower.membership import Membership
from pocketfed.mobile_client.flower.task import Handle, Task
from tests.mobile_client.flower.superlink import SuperLink

WEIGHTS = bytes(range(256)) * 40


class Crash(BaseException):
    """The phone's process ends here: nothing may catch this."""


class Wire(httpx.BaseTransport):
    """The network, with a tap: what is sent is remembered, and `before` and `after` a call things may happen."""

    def __init__(self) -> None:
        self._inner = httpx.HTTPTransport()
        self.calls: list[str] = []
        self.before: Callable[[str], None] = lambda name: None
        self.after: Callable[[str], None] = lambda name: None
        self.respond: Callable[[str], httpx.Response | None] = lambda name: None  # in place of the server

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        name = request.url.path.rpartition("/")[2]
        self.before(name)
        self.calls.append(name)
        if (made := self.respond(name)) is not None:
            return made
        response = self._inner.handle_request(request)
        content = response.read()
        response.close()
        self.after(name)
        return httpx.Response(
            response.status_code, headers=response.headers, stream=httpx.ByteStream(content)
        )

    def close(self) -> None:
        self._inner.close()


def echo(task: Task) -> Mapping[str, Mapping[str, Value]]:
    """Answers with what it was asked, in the record's name of an update."""
    return {"update": dict(task.records.get("instruction", {}))}


@dataclass
class PhoneOnWire:
    """An agent and its wire."""

    agent: Agent
    wire: Wire
    caller: Caller
    slept: list[float] = field(default_factory=list)


Start = Callable[..., PhoneOnWire]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a phone on a server; again on the same home unless told otherwise, as after a crash."""
    started: list[PhoneOnWire] = []

    def run(
        server: str,
        handle: Handle = echo,
        home: str = "home",
        now: Callable[[], float] | None = None,
        refusal: Callable[[str], str | None] = lambda kind: None,
    ) -> PhoneOnWire:
        folder = tmp_path / home
        folder.mkdir(exist_ok=True)
        wire, slept = Wire(), list[float]()
        clock = ServerClock(now) if now else ServerClock()
        key = load_or_create_key(folder / "key")
        retry = Retry(tries=2, first=0.01)
        caller = Caller(server, key, clock, retry=retry, transport=wire, sleep=slept.append)
        fleet = Fleet(caller)
        membership = Membership(fleet, folder / "node.json", 30.0)
        journal = Journal(folder / "journal")
        agent = Agent(fleet, membership, journal, handle, Pace(), slept.append, refusal)
        started.append(PhoneOnWire(agent, wire, caller, slept))
        return started[-1]

    yield run
    for phone in started:
        phone.caller.__exit__(None, None, None)


@pytest.fixture
def superlink() -> Iterator[SuperLink]:
    """A server in memory that takes any phone."""
    server = SuperLink()
    yield server
    server.stop()


@pytest.fixture
def launch() -> Iterator[Callable[..., SuperLink]]:
    """Starts servers as a test likes them."""
    servers: list[SuperLink] = []

    def run(**options: Any) -> SuperLink:
        servers.append(SuperLink(**options))
        return servers[-1]

    yield run
    for server in servers:
        server.stop()

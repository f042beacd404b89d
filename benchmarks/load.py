"""A server under the load of many phones: python benchmarks/load.py --phones 200

Starts `pocketfed serve` as a process of its own, with the default network (one record of 1.9 MB each way), and phones
that answer at once, each with its own key and connections, all in this process. Prints rounds per minute, the time of
each request as phones see it, requests per phone and message and per phone and round, and what the server took. TLS and
enrolment are on.
"""

import contextlib
import json
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from cryptography.hazmat.primitives.asymmetric import ec

from pocketfed.core.bundle import read_bundle
from pocketfed.core.errors import PocketfedError
from pocketfed.core.plan import PhoneStatus, Update
from pocketfed.core.wire import INSTRUCTION, STATUS, UPDATE, read_instruction, status_items, update_items
from pocketfed.mobile_client.connection import trust
from pocketfed.mobile_client.flower.agent import Agent, Pace
from pocketfed.mobile_client.flower.calls import Caller, Reply
from pocketfed.mobile_client.flower.fleet import Fleet
from pocketfed.mobile_client.flower.journal import Journal
from pocketfed.mobile_client.flower.key import PhoneKey
from pocketfed.mobile_client.flower.membership import Membership
from pocketfed.mobile_client.flower.objects import Records
from pocketfed.mobile_client.flower.task import Task
from pocketfed.server.certificates import make_certificates
from pocketfed.server.enrolment import open_fleet

PACE = Pace(first=0.5, most=5.0)
"""Real phones let their polls grow to 30 seconds apart; these end their rounds sooner, and cost the server more."""

HEARTBEAT = 60.0
"""Seconds, as `pocketfed phone` has it."""

WARM = 2
"""Rounds that are not measured: phones connect, and are asked who they are."""

MEMORY = Path("/dev/shm")
"""Where phones keep their journals, if it exists: real ones do not share a disk with the server."""

IDLE, BEAT = "pull-messages, nothing there", "send-node-heartbeat"
"""Requests that come with time, and not with messages."""


@dataclass
class Tally:
    """What phones saw of the server.

    Attributes:
        seconds: of each request, by name.
        statuses: how often each request ended so, other than with 200.
    """

    seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    statuses: Counter[str] = field(default_factory=Counter)
    over: bool = False  # what happens from now on says nothing of the server


class TimedCaller(Caller):
    """Notes how long each request took, and how it ended."""

    def __init__(self, *arguments: Any, tally: Tally, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._tally = tally

    def _send(self, name: str, body: bytes) -> Reply:
        if self._tally.over:
            sys.exit()  # this phone's thread
        began = time.perf_counter()
        try:
            reply = super()._send(name, body)
        except Exception as error:
            if not self._tally.over:
                self._tally.statuses[f"{name}: {type(error).__name__}"] += 1
            raise
        idle = name == "pull-messages" and not reply.content
        self._tally.seconds[IDLE if idle else name].append(time.perf_counter() - began)
        if reply.status != 200:
            self._tally.statuses[f"{name}: {reply.status}"] += 1
        return reply


class Instant:
    """A phone that trains in no time: the weights it was sent, a little changed, as no other phone changes them."""

    def __init__(self, number: int, layout: str) -> None:
        self._status = PhoneStatus(number, charging=True, layout=layout)

    def __call__(self, task: Task) -> Records:
        """See `Handle`."""
        if task.kind == "query":
            return {STATUS: status_items(self._status)}
        asked = read_instruction(task.records[INSTRUCTION])
        weights = asked.weights * np.float32(1 + 1e-5 * (self._status.number + 1))
        return {UPDATE: update_items(Update(weights, 32, round=asked.plan.round, layout=asked.layout))}


@dataclass(frozen=True)
class Taken:
    """What a process has taken so far: seconds of CPU, megabytes resident now and at most."""

    cpu: float
    resident: float
    peak: float

    @classmethod
    def by(cls, pid: int) -> "Taken":
        """Read it, from Linux."""
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        cpu = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        sizes = {line.split(":")[0]: int(line.split()[1]) / 1000 for line in lines if line.startswith("Vm")}
        return cls(cpu, sizes["VmRSS"], sizes["VmHWM"])


def main(
    phones: Annotated[int, typer.Option(help="Phones at once.")] = 200,
    rounds: Annotated[int, typer.Option(min=WARM + 1, help="Rounds, with two that are not measured.")] = 6,
) -> None:
    """Print the figures as Markdown."""
    logging.disable(logging.WARNING)  # of phones whose server has ended
    homes = MEMORY if MEMORY.is_dir() else None
    with (
        tempfile.TemporaryDirectory(prefix="pocketfed-load-") as name,
        tempfile.TemporaryDirectory(prefix="pocketfed-phones-", dir=homes) as home,
    ):
        folder, tally = Path(name), Tally()
        make_certificates(folder / "certs", ["127.0.0.1"])
        keys = _enrol(folder / "state", phones)
        verify = trust(folder / "certs/ca.pem")
        with _server(folder, phones, rounds) as (process, url):
            before = Taken.by(process.pid)
            layout = read_bundle(folder / "state" / "bundle").spec.layout
            for number, key in enumerate(keys):
                place = Path(home) / str(number)
                caller = TimedCaller(url, key, verify=verify, tally=tally)
                phone = (place, caller, Instant(number, layout))
                threading.Thread(target=_run_phone, args=phone, daemon=True).start()
            warm, after = _watch(process, folder / "state" / "metrics.jsonl", rounds)
            tally.over = True
        lines = (folder / "state" / "metrics.jsonl").read_text().splitlines()
        print(report(phones, [json.loads(line) for line in lines], tally, before, warm, after))


def report(
    phones: int, records: list[dict[str, Any]], tally: Tally, before: Taken, warm: Taken, after: Taken
) -> str:
    """The figures, of the rounds after the first `WARM`; of the requests, all."""
    later = [sum(record["phases"].values()) for record in records[1 + WARM :]]
    rounds = sum(record["phones"] for record in records)
    cost = (after.cpu - warm.cpu) / (len(later) * phones)
    headline = (
        f"{phones} phones: {60 / statistics.mean(later):.1f} rounds a minute, {requests(tally, rounds, phones)}; "
        f"server {1e3 * cost:.0f} ms CPU per phone and round, "
        f"{before.resident:.0f} MB before phones came and {after.peak:.0f} MB at most; "
        f"not answered with 200: {dict(tally.statuses) or 'none'}"
    )
    lines = [
        headline,
        "",
        "| request | times | p50 ms | p95 ms |",
        "|---|---|---|---|",
    ]
    for name, values in sorted(tally.seconds.items()):
        p50, p95 = (1e3 * float(np.quantile(values, q)) for q in (0.5, 0.95))
        lines.append(f"| {name} | {len(values)} | {p50:.0f} | {p95:.0f} |")
    return "\n".join(lines)


def requests(tally: Tally, rounds: int, phones: int) -> str:
    """How many there were for each message, and for each round of a phone with what a phone does besides.

    Args:
        tally: of all requests.
        rounds: in which a phone took part, of all phones together.
        phones: each of which was asked once who it is.
    """
    counts = {name: len(values) for name, values in tally.seconds.items() if name not in (IDLE, BEAT)}
    alone = sum(count for name, count in counts.items() if "node" not in name)
    return (
        f"{alone / (rounds + phones):.1f} requests per phone and message (status queries are messages, calls about nodes "
        f"are left out), {sum(counts.values()) / rounds:.1f} per phone and round (with both; idle polls and heartbeats "
        "are left out)"
    )


def _enrol(state: Path, phones: int) -> list[PhoneKey]:
    fleet = open_fleet(state)
    keys = [PhoneKey(ec.generate_private_key(ec.SECP256R1())) for _ in range(phones)]
    for number, key in enumerate(keys):
        fleet.register(key.public_pem, f"phone {number}")
    return keys


@contextlib.contextmanager
def _server(folder: Path, phones: int, rounds: int) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    (folder / "config.toml").write_text(
        f"rounds = {rounds}\n[deployment]\nminimum = {phones}\nover_selection = 0\nquorum = 1.0\ndeadline = 600\n"
    )
    command = [
        str(Path(sys.executable).with_name("pocketfed")), "serve", "--bundle", str(folder / "config.toml"),
        "--state", str(folder / "state"), "--port", "0",
        "--cert", str(folder / "certs/server.pem"), "--key", str(folder / "certs/server-key.pem"),
    ]  # fmt: skip
    said = folder / "said"
    with said.open("wb") as output:
        process = subprocess.Popen(command, stderr=output)
    try:
        yield process, _address(process, said)
    finally:
        process.terminate()
        process.wait(30)


def _address(process: subprocess.Popen[bytes], said: Path) -> str:
    while process.poll() is None:
        for line in said.read_text().splitlines():
            if line.startswith("Serving phones at "):
                return line.removeprefix("Serving phones at ").strip()
        time.sleep(0.1)
    raise SystemExit(f"the server did not start:\n{said.read_text()}")


def _run_phone(home: Path, caller: Caller, work: Instant) -> None:
    home.mkdir()
    fleet = Fleet(caller)
    member = Membership(fleet, home / "node.json", HEARTBEAT)
    with caller, contextlib.suppress(PocketfedError):  # the server ends before its phones
        Agent(fleet, member, Journal(home / "journal"), work, PACE).run()


def _watch(process: subprocess.Popen[bytes], metrics: Path, rounds: int) -> tuple[Taken, Taken]:
    """Wait for the last round, saying how it gets on; what the server had taken when it was warm, and in the end."""
    began, told = time.monotonic(), 0
    warm = after = Taken.by(process.pid)
    while told < rounds and process.poll() is None:
        time.sleep(0.05)
        finished = len(metrics.read_text().splitlines()) - 1 if metrics.is_file() else 0
        if finished > told:
            told, after = finished, Taken.by(process.pid)
            warm = after if told <= WARM else warm
            print(f"round {told} of {rounds} after {time.monotonic() - began:.1f} s", file=sys.stderr)
    if told < rounds:
        raise SystemExit("the server ended before its last round")
    return warm, after


if __name__ == "__main__":
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(main)
    app()

"""A server under the load of many phones: python benchmarks/load.py --phones 200

Starts `pocketfed serve` as a process of its own, with the default network (one record of 1.9 MB each way), and phones
that answer at once, each with its own key and connection, all in this process. Prints rounds per minute, the time of
each call as phones see it, calls per phone and round, and what the server took. TLS and enrolment are on.
"""

import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from cryptography.hazmat.primitives.asymmetric import ec

from pocketfed.core.errors import PocketfedError
from pocketfed.core.plan import PhoneStatus, Update
from pocketfed.core.wire import INSTRUCTION, STATUS, UPDATE, read_instruction, status_items, update_items
from pocketfed.mobile_client.flower.agent import Agent, Pace
from pocketfed.mobile_client.flower.calls import Caller, trust
from pocketfed.mobile_client.flower.fleet import Fleet
from pocketfed.mobile_client.flower.journal import Journal
from pocketfed.mobile_client.flower.key import PhoneKey
from pocketfed.mobile_client.flower.membership import Membership
from pocketfed.mobile_client.flower.objects import Records
from pocketfed.mobile_client.flower.task import Task
from pocketfed.server.certificates import make_certificates
from pocketfed.server.enrolment import open_fleet

POLL = Pace(first=0.2, most=2.0)
"""Phones of a load test are more eager than real ones, and cost the server more."""


class TimedCaller(Caller):
    """Notes how long each call took."""

    def __init__(self, *args: Any, times: dict[str, list[float]], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._times = times

    def call(self, name: str, request: Any, response: Any, tries: int | None = None) -> Any:
        """See `Caller`."""
        began = time.perf_counter()
        answer = super().call(name, request, response, tries)
        idle = name == "pull-messages" and not answer.messages_list
        self._times["pull-messages, nothing there" if idle else name].append(time.perf_counter() - began)
        return answer


class Idle:
    """A phone that trains in no time: the weights it was sent, a little changed."""

    def __init__(self, number: int) -> None:
        self._number = number

    def __call__(self, task: Task) -> Records:
        """See `Handle`."""
        if task.kind == "query":
            return {STATUS: status_items(PhoneStatus(self._number, charging=True))}
        asked = read_instruction(task.records[INSTRUCTION])
        change = np.float32(1e-3) * np.random.default_rng(self._number).standard_normal(asked.weights.size)
        weights = asked.weights + change.astype(np.float32)
        return {UPDATE: update_items(Update(weights, 32, round=asked.plan.round, layout=asked.layout))}


def main(
    phones: Annotated[int, typer.Option(help="Phones at once.")] = 200,
    rounds: Annotated[int, typer.Option(help="Rounds.")] = 6,
) -> None:
    """Print the figures as Markdown."""
    with tempfile.TemporaryDirectory(prefix="pocketfed-load-") as name:
        folder = Path(name)
        make_certificates(folder / "certs", ["127.0.0.1"])
        keys = [PhoneKey(ec.generate_private_key(ec.SECP256R1())) for _ in range(phones)]
        enrolment = open_fleet(folder / "state")
        for number, key in enumerate(keys):
            enrolment.register(key.public_pem, f"phone {number}")
        times: dict[str, list[float]] = defaultdict(list)
        with _server(folder, phones, rounds) as (process, url):
            threads = [
                threading.Thread(target=_phone, args=(folder, url, number, key, times), daemon=True)
                for number, key in enumerate(keys)
            ]
            for thread in threads:
                thread.start()
            while process.poll() is None and not _finished(folder, rounds):
                time.sleep(0.2)
            cpu, peak = _taken(process.pid)
        records = [json.loads(line) for line in (folder / "state" / "metrics.jsonl").read_text().splitlines()]
        print(report(phones, records, times, cpu, peak))


def report(
    phones: int, records: list[dict[str, Any]], times: dict[str, list[float]], cpu: float, peak: float
) -> str:
    """The figures; the first round, in which phones connect, counts for nothing but calls."""
    later = [record["seconds"] for record in records[2:]]
    busy = sum(len(v) for k, v in times.items() if "nothing" not in k and "node" not in k)
    asked = sum(record["phones"] for record in records)
    pace, calls = 60 / statistics.mean(later), busy / max(1, asked)
    headline = (
        f"{phones} phones: {pace:.1f} rounds a minute, {calls:.1f} calls per phone and round, "
        f"server {cpu:.0f} s CPU, peak {peak:.0f} MB"
    )
    lines = [
        headline,
        "",
        "| call | times | p50 ms | p95 ms |",
        "|---|---|---|---|",
    ]
    for name, values in sorted(times.items()):
        p50, p95 = (1e3 * float(np.quantile(values, q)) for q in (0.5, 0.95))
        lines.append(f"| {name} | {len(values)} | {p50:.0f} | {p95:.0f} |")
    return "\n".join(lines)


@contextlib.contextmanager
def _server(folder: Path, phones: int, rounds: int) -> Iterator[tuple[subprocess.Popen[str], str]]:
    (folder / "config.toml").write_text(
        f"rounds = {rounds}\n[deployment]\nminimum = {phones}\nover_selection = 0\nquorum = 1.0\ndeadline = 600\n"
    )
    command = [
        str(Path(sys.executable).with_name("pocketfed")), "serve", "--bundle", str(folder / "config.toml"),
        "--state", str(folder / "state"), "--port", "0",
        "--cert", str(folder / "certs/server.pem"), "--key", str(folder / "certs/server-key.pem"),
    ]  # fmt: skip
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        for line in process.stderr:
            if line.startswith("Serving phones at "):
                threading.Thread(target=process.stderr.read, daemon=True).start()
                yield process, line.removeprefix("Serving phones at ").strip()
                break
        else:
            raise RuntimeError("the server did not start")
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def _phone(folder: Path, url: str, number: int, key: PhoneKey, times: dict[str, list[float]]) -> None:
    home = folder / f"phone-{number}"
    home.mkdir()
    with TimedCaller(url, key, verify=trust(folder / "certs/ca.pem"), times=times) as caller:
        fleet = Fleet(caller)
        agent = Agent(
            fleet, Membership(fleet, home / "node.json", 600), Journal(home / "journal"), Idle(number), POLL
        )
        with contextlib.suppress(PocketfedError):  # the server ends before its phones
            agent.run()


def _finished(folder: Path, rounds: int) -> bool:
    metrics = folder / "state" / "metrics.jsonl"
    return metrics.is_file() and len(metrics.read_text().splitlines()) > rounds


def _taken(pid: int) -> tuple[float, float]:
    """Seconds of CPU and peak resident megabytes of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    cpu = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    status = Path(f"/proc/{pid}/status").read_text()
    (peak,) = (int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
    return cpu, peak / 1024


if __name__ == "__main__":
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(main)
    app()

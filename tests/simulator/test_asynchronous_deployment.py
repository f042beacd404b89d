"""Rounds that do not wait, over the wire: silent phones, a server that is killed, and its page."""

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pocketfed.core.wire import INSTRUCTION, read_instruction
from pocketfed.mobile_client.flower.objects import Records
from pocketfed.mobile_client.flower.task import Task
from pocketfed.server.checkpoint import load_checkpoint, newest, path_of
from pocketfed.simulator.config import Config
from pocketfed.simulator.config_file import build_config
from pocketfed.simulator.run_folder import RunFolder, read_metrics
from tests.simulator.deployed import (
    START,
    Phone,
    Server,
    bundle,
    fleet,
    learnt,
    page_says,
    settings,
    wait_for,
)
from tests.simulator.processes import Process, free_port


def buffered(rounds: int, **deployment: Any) -> Config:
    """A version after two updates of four phones, three of which are at work."""
    values = settings(rounds, minimum=2, **deployment).model_dump(mode="json")
    values["asynchronous"] = {"enabled": True, "buffer": 2, "concurrency": 3, "max_staleness": 20}
    return build_config(values)


def hold(phone: Phone, since: int) -> threading.Event:
    """Let a phone begin its work on any round from `since` on, and not answer, until the event is set."""
    free, work = threading.Event(), phone.work

    def held(task: Task) -> Records:
        if not free.is_set() and task.kind != "query":
            asked = read_instruction(task.records[INSTRUCTION]).plan.round
            if asked >= since:
                phone.stop_at(asked)
        return work(task)

    phone.work = held  # type: ignore[method-assign]
    return free


def test_a_version_after_every_two_updates_and_a_silent_phone_costs_nothing(tmp_path: Path) -> None:
    """Phone 0 takes an instruction and keeps it; the others make all versions before its deadline."""
    made = bundle(tmp_path / "bundle", buffered(8))
    with fleet(tmp_path, 4) as phones, Server(tmp_path / "state", made) as server:
        hold(phones[0], 1)
        for phone in phones:
            phone.start(server.url)
        weights = server.result()
        assert phones[0].stopped.is_set()
    outcomes = server.diary.outcomes
    assert [outcome.round for outcome in outcomes] == list(range(1, 9))
    assert [outcome.phones for outcome in outcomes] == [2] * 8
    assert [outcome.attempt for outcome in outcomes] == [0] * 8
    assert np.isfinite(weights).all()
    assert server.shown.totals.updates == 16
    folder = RunFolder(tmp_path / "state")
    np.testing.assert_array_equal(load_checkpoint(path_of(folder.checkpoints, 8)).weights, weights)
    assert all(record["staleness"]["max"] <= 20 for record in read_metrics(folder, 8))


def test_one_phone_alone_learns_what_it_would_by_itself(tmp_path: Path) -> None:
    values = buffered(3).model_dump(mode="json")
    values["deployment"]["minimum"] = 1
    values["asynchronous"] |= {"buffer": 1, "concurrency": 1}
    made = bundle(tmp_path / "bundle", build_config(values))
    with fleet(tmp_path, 1) as (phone,), Server(tmp_path / "state", made) as server:
        phone.start(server.url)
        weights = server.result()
    wanted = START.astype(np.float64)
    for round_number in (1, 2, 3):
        wanted = learnt(wanted, round_number, 0)
    np.testing.assert_allclose(weights, wanted, rtol=1e-6)


@pytest.mark.long
def test_a_server_that_is_killed_goes_on_and_asks_again_what_was_under_way(tmp_path: Path) -> None:
    """All phones are held at work on round 3 or later when the server dies; what they then send belongs to nobody."""
    port = free_port()
    state, made = tmp_path / "state", bundle(tmp_path / "bundle", buffered(6))
    words = ["serve", "--bundle", made, "--state", state, "--port", port, "--insecure", "--open"]
    server = Process([str(word) for word in words], tmp_path / "output")
    try:
        with fleet(tmp_path, 4) as phones:
            held = [hold(phone, 3) for phone in phones]
            server.start()
            for phone in phones:
                phone.start(f"http://127.0.0.1:{port}")
            wait_for(lambda: sum(phone.stopped.is_set() for phone in phones) == 3, "three phones at work")
            assert page_says(f"http://127.0.0.1:{port}", "Round [3-5] of 6")
            server.kill()
            last = newest(RunFolder(state).checkpoints)
            assert last is not None
            assert 2 <= load_checkpoint(last).round <= 4
            for phone, free in zip(phones, held, strict=True):
                free.set()
                phone.go_on()
            server.start()
            assert server.end() == 0, (tmp_path / "output").read_text()
    finally:
        server.clear()
    records = read_metrics(RunFolder(state), 6)
    assert [record["round"] for record in records] == list(range(7))
    assert [record["phones"] for record in records[1:]] == [2] * 6
    assert all(failure["kind"] == "silent" for record in records for failure in record["failed"])
    assert np.isfinite(load_checkpoint(path_of(RunFolder(state).checkpoints, 6)).weights).all()

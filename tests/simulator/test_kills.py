"""`pocketfed serve` is killed in every phase of a round, started again, and comes to the very same weights: what its server
optimiser remembers goes through every kill."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from pocketfed.server.checkpoint import load_checkpoint, newest
from pocketfed.simulator.run_folder import RunFolder, read_metrics
from tests.simulator.deployed import (
    FEW,
    START,
    Phone,
    assert_close,
    bundle,
    fleet,
    learnt,
    page_says,
    settings,
    wait_for,
)
from tests.simulator.processes import Process, free_port

ROUNDS = 4
RATE, FIRST, SECOND, TAU = 0.01, 0.9, 0.99, 1e-3
"""FedAdam's settings, as they are by default."""


def expected(rounds: int) -> NDArray[np.float64]:
    """FedAdam over the mean, in plain float64, of a run that nobody disturbs; without its memory it goes elsewhere."""
    weights = START.astype(np.float64)
    mean, square = np.zeros_like(weights), np.full_like(weights, TAU**2)
    for round_number in range(1, rounds + 1):
        towards = np.mean([learnt(weights, round_number, number) for number in range(FEW)], axis=0) - weights
        mean = FIRST * mean + (1 - FIRST) * towards
        square = SECOND * square + (1 - SECOND) * towards**2
        weights = weights + RATE * mean / (np.sqrt(square) + TAU)
    return weights


@contextmanager
def serving(folder: Path, port: int) -> Iterator[Process]:
    config = settings(ROUNDS).model_copy(update={"aggregator": "fedadam"})
    made = bundle(folder / "bundle", config)
    arguments = [
        "serve",
        "--bundle",
        made,
        "--state",
        folder / "state",
        "--port",
        port,
        "--insecure",
        "--open",
    ]
    process = Process([str(argument) for argument in arguments], folder / "output")
    try:
        yield process
    finally:
        process.clear()


def node_ids(phones: Sequence[Phone]) -> list[str]:
    return [phone.home.node.read_text() for phone in phones]


@pytest.mark.long
def test_a_server_that_is_killed_in_every_phase_of_a_round_comes_to_the_same_weights(tmp_path: Path) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with serving(tmp_path, port) as server, fleet(tmp_path) as phones:
        state = RunFolder(tmp_path / "state")

        # One phone too few: it waits.
        server.start()
        for phone in phones[:-1]:
            phone.start(url)  # before the server listens
        wait_for(lambda: page_says(url, f"Waiting for phones: 2 of {FEW}"), "waiting for phones")
        before = node_ids(phones[:-1])
        server.kill()

        # All phones work on round 2, and none has answered.
        for phone in phones:
            phone.stop_at(2)
        server.start()
        phones[-1].start(url)
        wait_for(lambda: all(phone.stopped.is_set() for phone in phones), "all phones work")
        assert node_ids(phones[:-1]) == before
        before = node_ids(phones)
        server.kill()

        # Round 3 has been answered by two of three phones. The answers to the round 2 that died with the server
        # come to the next one, which does not want them: they are not folded twice.
        for phone in phones:
            phone.go_on()
        phones[-1].stop_at(3)
        server.start()
        wait_for(lambda: page_says(url, f"Round 3 of {ROUNDS}: 2 of {FEW} answered"), "two of three answered")
        assert phones[-1].stopped.is_set()
        server.kill()

        # Killed between the checkpoint and the metrics of round 2.
        assert len(read_metrics(state, ROUNDS)) == 3
        lines = state.metrics.read_text().splitlines(keepends=True)
        state.metrics.write_text("".join(lines[:-1]))
        phones[-1].go_on()
        server.start()
        assert server.end() == 0

        assert node_ids(phones) == before
        last = newest(state.checkpoints)
        assert last is not None
        checkpoint = load_checkpoint(last)
        assert checkpoint.round == ROUNDS
        assert {status.number for status in checkpoint.statuses.values()} == set(range(FEW))
        assert_close(checkpoint.weights, expected(ROUNDS))
        records = read_metrics(state, ROUNDS)
        assert [record["round"] for record in records] == list(range(ROUNDS + 1))
        assert [record["phones"] for record in records] == [0] + [FEW] * ROUNDS
        # Phones give up what was for a server that is no more, and nothing else went wrong.
        assert all(phone.fault is None for phone in phones)
    assert "Traceback" not in (tmp_path / "output").read_text()

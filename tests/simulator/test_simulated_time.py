"""A clock that events advance: who answers when, and how long a round takes, without waiting for anything."""

import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Context, Message, MessageType
from flwr.clientapp import ClientApp
from numpy.typing import NDArray

from pocketfed.core.errors import ConfigError
from pocketfed.core.hyper import Hyper
from pocketfed.core.plan import PhoneStatus, Plan, Update
from pocketfed.core.wire import weights_to_bytes
from pocketfed.server import crew
from pocketfed.server.aggregators import FedAvg, GlobalModel
from pocketfed.server.buffered import run_buffered
from pocketfed.server.checkpoint import load_checkpoint, path_of
from pocketfed.server.messages import introduce, pack_instruction, pack_update, unpack_instruction
from pocketfed.server.outcome import Kind, Outcome, RoundWatcher
from pocketfed.server.roster import Roster, call_roll
from pocketfed.server.rounds import run_rounds
from pocketfed.server.staleness import Staleness
from pocketfed.server.terms import Buffered, Rounds, Terms
from pocketfed.simulator.config_file import build_config
from pocketfed.simulator.inprocess import InProcessGrid
from pocketfed.simulator.run_folder import RunFolder, read_metrics
from pocketfed.simulator.simulate import simulate
from pocketfed.simulator.simulated_time import Delays, SimulatedClock, SimulatedGrid
from tests.conftest import Silent
from tests.server.scripted_grid import LAYOUT, SIZE, adds, fleet
from tests.simulator.test_simulate import small

START = np.full(SIZE, 10, dtype=np.float32)


class Times(RoundWatcher):
    """When each round was finished, in simulated seconds."""

    def __init__(self, clock: SimulatedClock) -> None:
        self._clock = clock
        self.at: list[float] = []
        self.outcomes: list[Outcome] = []

    def finished(self, outcome: Outcome) -> None:
        self.at.append(self._clock.seconds)
        self.outcomes.append(outcome)


def play(
    delays: tuple[float, ...], phones: int, rounds: int, buffered: Buffered | None, **terms: Any
) -> tuple[Times, NDArray[np.float32]]:
    clock, roster = SimulatedClock(), Roster()
    inside = fleet({n: adds(n) for n in range(phones)})
    grid = SimulatedGrid(inside, clock, Delays(delays, 0.0, 0), lambda node: node - 100)
    plan = Rounds(
        LAYOUT, FedAvg(), lambda r: Plan(r, 0, {}, False, Hyper()), 0, Terms(**terms), buffered=buffered
    )
    times, run = Times(clock), run_rounds if buffered is None else run_buffered
    model = run(grid, plan, roster, GlobalModel(START), range(1, rounds + 1), times)
    return times, model.weights


def test_a_round_that_waits_takes_as_long_as_its_slowest_phone() -> None:
    times, weights = play((100.0, 200.0, 400.0), 16, 10, None)
    assert times.at == [400.0 * n for n in range(1, 11)]
    np.testing.assert_allclose(weights, START + 10 * np.mean(range(16)))


def test_a_phone_that_is_too_slow_costs_the_deadline_and_is_silent() -> None:
    times, _ = play((100.0, 500.0), 4, 2, None, deadline=300.0)
    assert times.at == [300.0, 600.0]
    assert {f.phone: f.kind for f in times.outcomes[0].failures} == {1: Kind.SILENT, 3: Kind.SILENT}


def test_rounds_that_do_not_wait_take_as_long_as_updates_come() -> None:
    """With everybody at work, by time t phone i has answered floor(t / d_i) times."""
    delays = (100.0, 200.0, 400.0)
    times, _ = play(delays, 16, 160, Buffered(1, 16, Staleness(1000)))
    for number, at in enumerate(times.at, 1):
        answers = sum(math.floor(at / delays[phone % 3]) for phone in range(16))
        before = sum(math.ceil(at / delays[phone % 3]) - 1 for phone in range(16))
        assert before < number <= answers
    assert times.at[-1] == 1700.0  # 160 updates; ten rounds that wait take 4000


def test_phones_that_are_too_slow_lose_their_place_at_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crew, "POLL", 0.0)
    times, _ = play((100.0, 500.0), 4, 6, Buffered(2, 4, Staleness(10)), deadline=300.0)
    assert times.at == [100.0 * n for n in range(1, 7)]
    silent_in = [
        outcome.round for outcome in times.outcomes for f in outcome.failures if f.kind is Kind.SILENT
    ]
    assert len(silent_in) >= 2


def test_what_nobody_waits_for_any_more_holds_nothing_up() -> None:
    inside = fleet({n: adds(1) for n in range(3)})
    clock = SimulatedClock()
    grid = SimulatedGrid(inside, clock, Delays((1.0, 9.0, 2.0), 0.0, 0), lambda node: node - 100)
    content = pack_instruction(Plan(1, 0, {}, False, Hyper()), weights_to_bytes(START), LAYOUT.digest)
    messages = [Message(content, 100 + n, MessageType.TRAIN, ttl=5.0, group_id="1") for n in range(3)]
    _, slow, last = grid.push_messages(messages)
    (reply,) = grid.pull_messages([slow, last])
    assert (reply.metadata.src_node_id, clock.seconds) == (102, 2.0)
    (reply,) = grid.pull_messages([slow])
    assert (reply.has_error(), clock.seconds) == (True, 5.0)
    assert list(grid.pull_messages([slow])) == []


def test_jitter_is_bounded_and_the_same_for_a_seed() -> None:
    delays = Delays((100.0, 200.0), 0.25, 3)
    drawn = [delays.of(phone, number) for phone in range(2) for number in range(50)]
    assert drawn == [delays.of(phone, number) for phone in range(2) for number in range(50)]
    assert all(75 <= seconds <= 125 for seconds in drawn[:50])
    assert all(150 <= seconds <= 250 for seconds in drawn[50:])
    assert len(set(drawn)) == 100
    assert drawn != [Delays((100.0, 200.0), 0.25, 4).of(phone, n) for phone in range(2) for n in range(50)]


def asynchronous(**more: Any) -> Any:
    return small(
        rounds=6,
        fleet={"phones": 4, "alpha": 1.0, "delays": [10, 20, 40], "jitter": 0.1},
        asynchronous={"enabled": True, "buffer": 2, "concurrency": 3, **more},
    )


@pytest.mark.long
def test_a_simulation_goes_on_after_it_was_stopped(tmp_path: Path) -> None:
    simulate(asynchronous(), tmp_path, Silent())
    assert "by simulated seconds" in (tmp_path / "report.html").read_text()
    for number in (4, 5, 6):  # as if it had been killed in round 4
        path_of(tmp_path / "checkpoints", number).unlink()
    simulate(asynchronous(), tmp_path, Silent(), resume=True)
    records = read_metrics(RunFolder(tmp_path), 6)
    assert [record["round"] for record in records] == list(range(7))
    assert [record["phones"] for record in records[1:]] == [2] * 6
    seconds = [record["simulated_seconds"] for record in records]
    assert seconds == sorted(seconds)
    assert np.isfinite(load_checkpoint(path_of(tmp_path / "checkpoints", 6)).weights).all()


def add_in_any_time() -> ClientApp:
    """Phones whose work depends on the weights that they were sent, and takes them any time for real."""
    app = ClientApp()

    @app.query()
    def who(message: Message, context: Context) -> Message:
        return introduce(message, PhoneStatus(int(context.node_config["partition-id"])))

    @app.train()
    def learn(message: Message, context: Context) -> Message:
        time.sleep(np.random.default_rng().uniform(0, 0.02))
        asked, number = unpack_instruction(message), int(context.node_config["partition-id"])
        weights = asked.weights * np.float32(1 + 0.01 * number) + np.float32(asked.plan.round)
        return Message(
            pack_update(Update(weights, 1, round=asked.plan.round, layout=asked.layout)), reply_to=message
        )

    return app


@pytest.mark.long
def test_a_run_is_the_same_twice_whoever_is_quick_for_real() -> None:
    def run() -> tuple[list[float], list[tuple[int, ...]], NDArray[np.float32]]:
        clock, roster = SimulatedClock(), Roster(status_age=math.inf)
        delays = Delays((1.0, 2.0, 4.0), 0.3, 0)
        buffered = Buffered(2, 4, Staleness(10, "polynomial"))
        rounds = Rounds(
            LAYOUT,
            FedAvg(),
            lambda r: Plan(r, 0, {}, False, Hyper()),
            0,
            Terms(deadline=60.0),
            buffered=buffered,
        )
        times = Times(clock)
        with InProcessGrid(add_in_any_time, phones=6, workers=2) as inside:
            call_roll(inside, roster, 6)
            grid = SimulatedGrid(inside, clock, delays, lambda node: roster.statuses[node].number)
            model = run_buffered(grid, rounds, roster, GlobalModel(START), range(1, 16), times)
        return times.at, [tuple(outcome.staleness) for outcome in times.outcomes], model.weights

    (at, staleness, weights), (again_at, again_staleness, again) = run(), run()
    assert at == again_at
    assert staleness == again_staleness
    assert max(map(max, staleness)) > 0
    np.testing.assert_array_equal(weights, again)


def test_mistakes_are_told_all_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        build_config(
            {
                "fleet": {"delays": [1, -2], "jitter": 2},
                "asynchronous": {
                    "buffer": 0,
                    "concurrency": 0,
                    "staleness": "never",
                    "max_staleness": -1,
                    "step": 0,
                },
            }
        )
    assert len(caught.value.problems) == 7
    assert build_config({"fleet": {"delays": 3}}).fleet.delays == (3.0,)

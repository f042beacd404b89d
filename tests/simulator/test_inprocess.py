"""The in-process engine and the strategy on top of it, with phones that behave badly in every way."""

import functools
import multiprocessing
import os
import re
import signal
import time
from typing import Any

import numpy as np
import pytest
from flwr.app import ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid

from pocketfed.core.hyper import Hyper
from pocketfed.core.layout import Layout, Role, Slice
from pocketfed.core.plan import PhoneStatus, Plan, Update
from pocketfed.server.aggregators import FedAvg, GlobalModel
from pocketfed.server.app import build_server_app
from pocketfed.server.messages import introduce, pack_update, unpack_instruction
from pocketfed.server.outcome import Outcome, RoundWatcher
from pocketfed.server.roster import Roster
from pocketfed.server.terms import Rounds, Terms, sample_cohort
from pocketfed.simulator.inprocess import InProcessGrid

SIZE = 1000
LAYOUT = Layout((Slice("backbone.w", (SIZE,), Role.BACKBONE, 0),))


class Unreadable:
    """Can be pickled, but not read again."""

    def __reduce__(self) -> tuple[type[int], tuple[str]]:
        return int, ("nothing",)


def phones_that(faults: dict[int, str]) -> ClientApp:
    """Phone i adds i + 1 to every weight, or misbehaves in round 2 as `faults` says."""
    app = ClientApp()

    @app.query()
    def who(message: Message, context: Context) -> Message:
        return introduce(message, PhoneStatus(int(context.node_config["partition-id"])))

    @app.train()
    def learn(message: Message, context: Context) -> Message:
        number = int(context.node_config["partition-id"])
        instruction = unpack_instruction(message)
        round_number, weights = instruction.plan.round, instruction.weights + np.float32(number + 1)
        fault = faults.get(number) if round_number == 2 else None

        def content_of(weights: Any, examples: int = 1, round_number: int = round_number) -> RecordDict:
            return pack_update(Update(weights, examples, round=round_number, layout=instruction.layout))

        content = content_of(weights)
        match fault:
            case "raise":
                raise RuntimeError("out of memory on the phone")
            case "die":
                os._exit(9)
            case "exit":
                raise SystemExit(3)
            case "hang":
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
                time.sleep(600)
            case "absurd":
                content = content_of(weights, 10**12)
            case "nan":
                weights[3] = np.nan
                content = content_of(weights)
            case "shape":
                content = content_of(weights[:-1])
            case "keys":
                content["update"] = ConfigRecord({"a": 1})
            case "dtype":
                content.config_records["update"]["format"] = "float64"
            case "layout":
                content.config_records["update"]["layout"] = "0" * 64
            case "another round":
                content = content_of(weights, round_number=1)
            case "empty":
                content = RecordDict()
            case "text":
                return "done"  # type: ignore[return-value]
        reply = Message(content, reply_to=message)
        if fault in ("unpicklable", "unreadable"):
            reply.__dict__["extra"] = Unreadable() if fault == "unreadable" else lambda: None
        return reply

    return app


class Recorder(RoundWatcher):
    """Keeps what rounds came to."""

    def __init__(self) -> None:
        self.outcomes: list[Outcome] = []

    def finished(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)


def run(faults: dict[int, str], phones: int = 5, rounds: int = 3, patience: float = 60.0) -> list[Outcome]:
    recorder = Recorder()
    terms = Terms(deadline=patience)
    decisions = Rounds(LAYOUT, FedAvg(), lambda r: Plan(r, 0, {}, False, Hyper()), seed=0, terms=terms)
    start = np.full(SIZE, 100, dtype=np.float32)
    roster = Roster(rests=False)  # as `simulate` has it
    server = build_server_app(decisions, GlobalModel(start), range(1, rounds + 1), roster, recorder, phones)
    with InProcessGrid(functools.partial(phones_that, faults), phones, workers=2) as grid:
        server(grid, Context(run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config={}))
    return recorder.outcomes


FAULTS = {
    "raise": "out of memory on the phone",
    "die": "process died",
    "exit": "SystemExit: 3",
    "text": "no message but str",
    "unpicklable": "pickle",
    "unreadable": "ValueError",
    "nan": "not finite",
    "shape": r"\[999\]",
    "keys": "cannot be read",
    "dtype": "format 'float64'",
    "layout": "layout",
    "another round": "belongs to round 1",
    "empty": "cannot be read",
    "absurd": "1000000000000 examples",
}


def test_a_fault_costs_that_phones_update_only() -> None:
    """Phones 1, 3, 5, ... misbehave in round 2, each in its own way; the others count."""
    faults = {2 * i + 1: fault for i, fault in enumerate(FAULTS)}
    phones = 2 * len(faults) + 1
    honest = [i for i in range(phones) if i not in faults]
    outcomes = run(faults, phones)
    everyone = np.float32(np.mean(np.arange(phones) + 1))
    assert [o.phones for o in outcomes] == [phones, len(honest), phones]
    for failure in outcomes[1].failures:
        assert re.search(FAULTS[faults.pop(failure.phone)], failure.reason)
    assert not faults
    assert np.allclose(outcomes[0].weights, 100 + everyone)
    assert np.allclose(outcomes[1].weights, 100 + everyone + np.mean([i + 1 for i in honest]))
    assert np.allclose(outcomes[2].weights, outcomes[1].weights + everyone)


def test_a_phone_that_never_returns_costs_its_round_the_patience_and_no_worker() -> None:
    """Two of them, even: there are two workers."""
    begun = time.monotonic()
    outcomes = run({0: "hang", 4: "hang"}, rounds=3, patience=4.0)
    assert time.monotonic() - begun < 60
    assert [(f.phone, f.reason) for f in outcomes[1].failures] == [
        (phone, "no answer in time") for phone in (0, 4)
    ]
    assert outcomes[1].seconds < 6
    assert [o.phones for o in outcomes] == [5, 3, 5]
    assert not multiprocessing.active_children()


def test_a_round_in_which_all_fail_keeps_the_weights() -> None:
    outcomes = run({i: "nan" for i in range(3)}, phones=3)
    assert outcomes[1].phones == 0
    assert np.array_equal(outcomes[1].weights, outcomes[0].weights)
    assert outcomes[2].phones == 3


def test_more_phones_than_fit_under_way_at_once() -> None:
    outcomes = run({}, phones=40, rounds=1)
    assert outcomes[0].phones == 40
    assert np.allclose(outcomes[0].weights, 100 + np.mean(np.arange(40) + 1))
    assert outcomes[0].bytes_down == outcomes[0].bytes_up == 40 * SIZE * 4


def sleepers() -> ClientApp:
    """Phone 0 answers at once, the others after 0.2 s, phone 19 after ten minutes, deaf to SIGTERM."""
    app = ClientApp()

    @app.query()
    def rest(message: Message, context: Context) -> Message:
        number = int(context.node_config["partition-id"])
        if number == 19:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep({0: 0.0, 19: 600.0}.get(number, 0.2))
        return Message(RecordDict({"metrics": MetricRecord({"phone": number})}), reply_to=message)

    return app


def questions(grid: InProcessGrid) -> list[Message]:
    return [grid.create_message(RecordDict(), "query", node, "0") for node in grid.get_node_ids()]


def test_workers_that_are_killed_while_the_server_folds_are_replaced() -> None:
    with InProcessGrid(sleepers, 19, workers=2) as grid:
        answers = []
        for reply in grid.send_and_receive(questions(grid), timeout=60.0):
            answers.append(reply.content.metric_records["metrics"]["phone"])
            if len(answers) in (1, 11):
                for process in multiprocessing.active_children():
                    process.kill()
                time.sleep(0.5)
    assert answers == list(range(19))


def test_workers_that_are_killed_between_rounds_are_replaced() -> None:
    with InProcessGrid(sleepers, 3, workers=2) as grid:
        for _ in range(2):
            replies = list(grid.send_and_receive(questions(grid)))
            assert not any(reply.has_error() for reply in replies)
            for process in multiprocessing.active_children():
                process.kill()


def test_leaving_does_not_wait_for_a_running_phone() -> None:
    grid = InProcessGrid(sleepers, 20, workers=2)
    messages = questions(grid)
    next(iter(grid.send_and_receive([messages[0], messages[19]])))
    time.sleep(0.5)
    left = time.monotonic()
    with pytest.raises(KeyboardInterrupt), grid:
        raise KeyboardInterrupt
    assert time.monotonic() - left < 5
    assert not multiprocessing.active_children()


def test_cohorts_are_drawn_anew_without_repetition_and_depend_on_the_seed_only() -> None:
    quarter = Terms(participation=0.25)
    cohorts = [sample_cohort(list(range(20)), quarter, 1, number)[1] for number in range(30)]
    assert all(len(set(c)) == 5 and c == sorted(c) for c in cohorts)
    assert len({tuple(c) for c in cohorts}) > 20
    assert {phone for c in cohorts for phone in c} == set(range(20))
    assert sample_cohort(list(range(19, -1, -1)), quarter, 1, 3) == (5, cohorts[3])
    assert sample_cohort(list(range(20)), quarter, 1, 3, attempt=1)[1] != cohorts[3]
    assert sample_cohort([4], Terms(0.01), 0, 0) == (1, [4])


def test_over_selection_asks_more_phones_than_are_wanted_and_never_more_than_there_are() -> None:
    wanted, cohort = sample_cohort(list(range(20)), Terms(0.5, over_selection=0.3), 0, 1)
    assert (wanted, len(cohort)) == (10, 13)
    wanted, cohort = sample_cohort(list(range(20)), Terms(0.9, over_selection=0.3), 0, 1)
    assert (wanted, len(cohort)) == (18, 20)


def test_push_and_pull_give_each_answer_once() -> None:
    with InProcessGrid(functools.partial(phones_that, {}), 2, workers=1) as grid:
        assert isinstance(grid, Grid)
        messages = [grid.create_message(RecordDict(), "query", node, "0") for node in grid.get_node_ids()]
        ids = list(grid.push_messages(messages))
        replies = list(grid.pull_messages(ids))
        assert [r.content.config_records["status"]["phone"] for r in replies] == [0, 1]
        assert list(grid.pull_messages(ids)) == []

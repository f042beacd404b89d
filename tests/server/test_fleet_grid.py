"""Rounds over the wire: Flower's Fleet API in this process, phones that speak it, and phones that misuse it."""

import dataclasses
import re
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid
from numpy.typing import NDArray

from pocketfed.core.hyper import Hyper
from pocketfed.core.plan import Plan
from pocketfed.core.wire import DECLINED, UPDATE, weights_to_bytes
from pocketfed.mobile_client.flower import descriptors as d
from pocketfed.mobile_client.flower.fleet import Fleet as Server
from pocketfed.mobile_client.flower.objects import Records, object_id
from pocketfed.mobile_client.flower.task import Failure, Question, build_answer
from pocketfed.server import fleet_grid
from pocketfed.server.admission import MOST_UNDER_WAY
from pocketfed.server.aggregators import FedAvg, GlobalModel
from pocketfed.server.buffered import run_buffered
from pocketfed.server.fleet_grid import FleetGrid
from pocketfed.server.flower_private import Fleet as PhonesSide
from pocketfed.server.outcome import Kind, Outcome, RoundWatcher
from pocketfed.server.roster import Roster, call_roll
from pocketfed.server.rounds import run_rounds
from pocketfed.server.staleness import Staleness
from pocketfed.server.terms import Buffered, Rounds, Terms
from tests.server.loopback import LAYOUT, SIZE, Gone, Misdeed, phones, rogue, send, serving, with_objects

START = np.full(SIZE, 10, dtype=np.float32)
HONEST = 3
"""Phones 0, 1 and 2 add 1, 2 and 3 in every round; the rogue, number 9, would add 10."""


pytestmark = pytest.mark.usefixtures("quiet_flower")


class Outcomes(RoundWatcher):
    """What rounds came to."""

    def __init__(self) -> None:
        self.all: list[Outcome] = []

    def finished(self, outcome: Outcome) -> None:
        self.all.append(outcome)


def decisions(**terms: Any) -> Rounds:
    """FedAvg over phones of which all must be there."""
    chosen = Terms(**{"minimum": HONEST, "deadline": 20.0, "in_order": False, **terms})
    return Rounds(LAYOUT, FedAvg(), lambda r: Plan(r, 0, {}, False, Hyper()), seed=0, terms=chosen)


def test_a_round_over_the_wire_takes_eight_calls_a_phone(tmp_path: Path) -> None:
    outcomes = Outcomes()
    with serving(tmp_path) as (fleet, url), phones(url, tmp_path, HONEST) as callers:
        model = run_rounds(FleetGrid(fleet), decisions(), Roster(), GlobalModel(START), range(1, 5), outcomes)
        calls = [dict(caller.count) for caller in callers]
    assert [outcome.phones for outcome in outcomes.all] == [3, 3, 3, 3]
    assert np.allclose(model.weights, START + 4 * 2)
    for count in calls:
        # Besides asking for work: four rounds and the question who this phone is.
        assert count["pull-object"] <= 2 * 4
        assert count["confirm-message-received"] <= 5
        assert count["push-messages"] <= 5
        assert count["push-object"] <= 3 * 5


def changed(records: Records, **items: Any) -> Records:
    """An update with some items replaced, or left out if they are None."""
    merged = {**records[UPDATE], **items}
    return {UPDATE: {key: value for key, value in merged.items() if value is not None}}


def lies(**items: Any) -> Misdeed:
    """An update that is well-formed and wrong."""

    def misdeed(server: Server, node: int, question: Question, records: Records) -> None:
        send(server, node, question, changed(records, **items))

    return misdeed


def with_weights(weights: NDArray[Any]) -> Misdeed:
    return lies(weights=weights_to_bytes(weights))


def declines(server: Server, node: int, question: Question, records: Records) -> None:
    send(server, node, question, Failure(DECLINED, "battery at 7 %, the policy asks for 30 %"))


def vanishes(server: Server, node: int, question: Question, records: Records) -> None:
    """Pulls, and is never heard of again."""
    raise Gone


def stops_half_way(server: Server, node: int, question: Question, records: Records) -> None:
    send(server, node, question, records, objects=1)
    raise Gone


def sends_another_content(server: Server, node: int, question: Question, records: Records) -> None:
    """All is offered and pushed as it should be, but for the last object, which has not the hash that is its name."""
    answer = build_answer(question, node, time.time(), 0.0, records)
    offer = server.push_messages(d.PushMessagesRequest.FromString(answer.request))
    *honest, last = answer.objects
    assert object_id(last) in offer.missing

    def push(name: str, body: bytes) -> bool:
        return server.push_object(node, question.metadata.run_id, name, body, offer.session)

    assert all(push(object_id(body), body) for body in honest if object_id(body) in offer.missing)
    assert not push(object_id(last), last + b"x")


def undecodable(kind: str, body: bytes) -> Misdeed:
    """Objects that are stored, and cannot be decoded."""

    def misdeed(server: Server, node: int, question: Question, records: Records) -> None:
        answer = with_objects(question, node, [(kind, (), body)])
        assert all(send(server, node, question, records, lambda _: answer))

    return misdeed


def answers_twice(server: Server, node: int, question: Question, records: Records) -> None:
    """First an answer that is refused, then other ones: of an instruction, the first answer counts."""
    send(server, node, question, changed(records, examples=-1))
    assert send(server, node, question, records) == []
    assert send(server, node, question, changed(records, examples=2)) == []


NAN, INF = START.copy(), START.copy()
NAN[7], INF[7] = np.nan, np.inf

FAULTS: dict[str, tuple[Misdeed, Kind, str]] = {
    "NaN": (with_weights(NAN), Kind.REFUSED, "not finite"),
    "Inf": (with_weights(INF), Kind.REFUSED, "not finite"),
    "wrong shape": (with_weights(START[:-1]), Kind.REFUSED, r"\[999\]"),
    "wrong dtype": (lies(format="float64"), Kind.REFUSED, "float64"),
    "half a number": (lies(weights=b"abc"), Kind.REFUSED, "cannot be read"),
    "missing keys": (lies(weights=None), Kind.REFUSED, "weights"),
    "another layout": (lies(layout="0" * 64), Kind.REFUSED, "layout"),
    "absurd example count": (lies(examples=10**12), Kind.REFUSED, "examples"),
    "weights far away": (with_weights(START * 1000), Kind.REFUSED, "moved by"),
    "answer for another round": (lies(round=1), Kind.REFUSED, "round 1"),
    "declined": (declines, Kind.DECLINED, "battery at 7 %"),
    "dictionary that is no JSON": (undecodable("RecordDict", b"{not json"), Kind.FAILED, "decoded"),
    "dictionary of nothing": (undecodable("RecordDict", b'{"update": "x"}'), Kind.FAILED, "decoded"),
    "record in place of a dictionary": (undecodable("ConfigRecord", b"\xff"), Kind.FAILED, "decoded"),
    "no update": (undecodable("RecordDict", b"{}"), Kind.REFUSED, "cannot be read"),
    "answered twice": (answers_twice, Kind.REFUSED, "-1 examples"),
    "killed after pull": (vanishes, Kind.SILENT, "no answer in time"),
    "killed in mid-upload": (stops_half_way, Kind.FAILED, "half-way"),
    "hash that does not match": (sends_another_content, Kind.FAILED, "half-way"),
}


@pytest.fixture(scope="module")
def faulty_run(tmp_path_factory: pytest.TempPathFactory) -> list[Outcome]:
    """Two rounds of the honest phones and one phone per fault, which commits it in the second."""
    folder, outcomes = tmp_path_factory.mktemp("faulty"), Outcomes()
    everybody = HONEST + len(FAULTS)
    with ExitStack() as stack:
        patched = stack.enter_context(pytest.MonkeyPatch.context())
        patched.setattr(fleet_grid, "UPLOAD_PATIENCE", 10.0)
        fleet, url = stack.enter_context(serving(folder))
        stack.enter_context(phones(url, folder, HONEST))
        for number, (misdeed, _, _) in enumerate(FAULTS.values(), start=10):
            stack.enter_context(rogue(url, number, misdeed))
        grid, roster = FleetGrid(fleet), Roster()
        decided = decisions(minimum=everybody, deadline=120.0)
        model = run_rounds(grid, decided, roster, GlobalModel(START), (1,), outcomes)
        run_rounds(
            grid,
            dataclasses.replace(decided, terms=decisions(deadline=30.0).terms),
            roster,
            model,
            (2,),
            outcomes,
        )
    return outcomes.all


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_that_phones_failure_with_its_reason(faulty_run: list[Outcome], fault: str) -> None:
    number = 10 + list(FAULTS).index(fault)
    _, kind, reason = FAULTS[fault]
    (failure,) = (failure for failure in faulty_run[1].failures if failure.phone == number)
    assert failure.kind is kind
    assert re.search(reason, failure.reason)


def test_faults_cost_nobody_elses_update_and_no_time_beyond_the_deadline(faulty_run: list[Outcome]) -> None:
    first, second = faulty_run
    assert (first.phones, second.phones) == (HONEST + len(FAULTS), HONEST)
    assert np.allclose(second.weights, first.weights + 2)
    assert second.seconds < 60


def test_a_slow_phone_is_refused_or_counts_in_the_next_round(tmp_path: Path) -> None:
    """Phone 9 answers round 1 when round 2 is running."""
    for late in ("refuse", "count"):
        folder = tmp_path / late
        folder.mkdir()
        kept: list[Any] = []

        def keeps(server: Server, node: int, question: Question, records: Records) -> None:
            kept.append((server, node, question, records))  # noqa: B023 - called before the loop goes on

        class Second(Outcomes):
            def begun(self, round_number: int, attempt: int, cohort: Any, present: int) -> None:
                if round_number == 2:
                    send(*kept[0])  # noqa: B023

        outcomes = Second()
        with ExitStack() as stack:
            fleet, url = stack.enter_context(serving(folder))
            stack.enter_context(phones(url, folder, HONEST))
            stack.enter_context(rogue(url, 9, keeps, bad_round=1))
            grid, roster, begin = FleetGrid(fleet, keep_late=late == "count"), Roster(), GlobalModel(START)
            call_roll(grid, roster, 4)
            run_rounds(grid, decisions(deadline=3.0, late=late), roster, begin, (1, 2), outcomes)
            # An answer that is refused does not keep the next one waiting.
            assert all(fleet.objects.admission.take_place(node, f"{node}") for node in range(MOST_UNDER_WAY))
        assert outcomes.all[0].phones == 3
        assert outcomes.all[1].phones == (4 if late == "count" else 3)


def test_late_answers_are_waited_for_as_long_as_the_next_call_lasts(tmp_path: Path) -> None:
    """The weights of each round are kept until then, also for phones that never fetch them."""
    fleet = PhonesSide(tmp_path / "fleet.db", 10**6)
    node = fleet.register(b"a key", "")
    fleet._state.activate_node(node, 60)
    grid = FleetGrid(fleet, keep_late=True)
    content = RecordDict({"a": ConfigRecord({"weights": b"x" * 1000})})
    for number in range(5):
        asked = Message(content, node, "train", ttl=600, group_id=str(number))
        assert list(grid.send_and_receive([asked], timeout=0.01)) == []
        assert [sent.metadata.group_id for sent in grid._sent.values()] == [str(number)]
        assert not any(len(sent.content) for sent in grid._sent.values())
    fleet.end_run()


CARELESS: dict[str, tuple[Misdeed, Kind]] = {
    "NaN": (with_weights(NAN), Kind.REFUSED),
    "a round that is to come": (lies(round=7), Kind.REFUSED),
    "declined": (declines, Kind.DECLINED),
    "dictionary that is no JSON": (undecodable("RecordDict", b"{not json"), Kind.FAILED),
    "killed after pull": (vanishes, Kind.SILENT),
}


def fail_without_holding_up(grid: Grid, url: str, folder: Path) -> None:
    """Rounds of two updates that do not wait go on until every careless phone has failed once."""
    outcomes, roster = Outcomes(), Roster()
    everybody = HONEST + len(CARELESS)
    buffered = Buffered(2, everybody, Staleness(1000, "polynomial"))
    decided = dataclasses.replace(decisions(minimum=1, deadline=5.0, quorum=0.5), buffered=buffered)
    with ExitStack() as stack:
        stack.enter_context(phones(url, folder, HONEST))
        for number, (misdeed, _) in enumerate(CARELESS.values(), start=10):
            stack.enter_context(rogue(url, number, misdeed, bad_round=1))
        call_roll(grid, roster, everybody)

        def failed() -> dict[int, Kind]:
            return {failure.phone: failure.kind for outcome in outcomes.all for failure in outcome.failures}

        model = run_buffered(
            grid, decided, roster, GlobalModel(START), range(1, 1000), outcomes,
            lambda: len(failed()) == len(CARELESS),
        )  # fmt: skip
    assert failed() == {10 + i: kind for i, (_, kind) in enumerate(CARELESS.values())}
    assert {outcome.phones for outcome in outcomes.all} == {2}
    assert np.isfinite(model.weights).all()
    assert (model.weights > START).all()


def test_rounds_that_do_not_wait_take_the_same_care(tmp_path: Path) -> None:
    with serving(tmp_path) as (fleet, url):
        fail_without_holding_up(FleetGrid(fleet), url, tmp_path)

"""The scoreboard counts everything, forgets details, and may be read while it is written."""

import threading
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pocketfed.core.modality import Modality
from pocketfed.server.aggregators import GlobalModel
from pocketfed.server.outcome import Failure, Kind, Outcome
from pocketfed.server.watch.health import health
from pocketfed.server.watch.page import state_line
from pocketfed.server.watch.scoreboard import HISTORY, LATEST, Scoreboard
from pocketfed.server.watch.snapshot import Stage
from pocketfed.simulator import run_folder
from tests.server.watch.example import busy


def outcome(number: int, phones: int = 3, failures: tuple[Failure, ...] = (), **more: Any) -> Outcome:
    known: dict[str, Any] = {
        "round": number,
        "model": GlobalModel(np.zeros(1, np.float32)),
        "loss": {Modality.PHOTO: 1.5},
        "phones": phones,
        "failures": failures,
        "bytes_down": 40,
        "bytes_up": 30,
        "seconds": 2.0,
        "phases": {"waiting": 0.5, "collecting": 1.5},
    }
    return Outcome(**(known | more))


def record(number: int, **more: Any) -> dict[str, Any]:
    """As a run's journal writes it."""
    return {
        "round": number,
        "loss": {"photo": 1.5},
        "phones": 3,
        "failures": 1,
        "failed": [{"phone": 4, "reason": "flat battery", "kind": "declined"}],
        "bytes_down": 40,
        "bytes_up": 30,
        "seconds": 2.0,
        "phases": {"waiting": 0.5, "collecting": 1.5},
    } | more


def test_the_stages_of_a_round() -> None:
    time = [100.0]
    board = Scoreboard(planned=2, deadline=60.0, clock=lambda: time[0])
    assert board.snapshot().stage is Stage.STARTING
    board.waiting(2, 5)
    shown = board.snapshot()
    assert (shown.stage, shown.present, shown.needed, shown.left) == (Stage.WAITING, 2, 5, None)
    board.begun(1, 0, [3, 1, 4], 7)
    time[0] += 20
    board.answered(1, 2, 3)
    shown = board.snapshot()
    assert (shown.stage, shown.round, shown.done, shown.cohort) == (Stage.COLLECTING, 1, 2, 3)
    assert shown.left == pytest.approx(40.0)
    assert shown.uptime == pytest.approx(20.0)
    assert shown.phones.chosen == 3
    time[0] += 50
    assert board.snapshot().left == 0.0
    board.abandoned(1, 0, [Failure(1, "gone", Kind.SILENT)])
    assert board.snapshot().stage is Stage.CHOOSING
    board.begun(1, 1, [5], 7)
    assert board.snapshot().attempt == 1
    board.finished(outcome(1, attempt=1))
    assert board.snapshot().stage is Stage.SAVING
    board.saved(1, 0.25)
    assert board.snapshot().stage is Stage.CHOOSING
    assert board.snapshot().rounds[-1].phases == {"waiting": 0.5, "collecting": 1.5, "saving": 0.25}
    board.finished(outcome(2))
    board.saved(2, 0.25)
    shown = board.snapshot()
    assert shown.stage is Stage.FINISHED
    assert shown.totals.phases == {"waiting": 1.0, "collecting": 3.0, "saving": 0.5}
    assert shown.totals.abandoned == 1
    assert shown.totals.failures == {Kind.SILENT: 1}


def test_why_phones_are_left_out_is_shown_as_it_is_now() -> None:
    board = Scoreboard()
    counts = {"seen": 3, "online": 3, "eligible": 1, "benched": 0}
    board.fleet(**counts, left_out={"holds no sounds": 2})
    assert board.snapshot().phones.left_out == {"holds no sounds": 2}
    board.fleet(**counts, left_out={})
    assert board.snapshot().phones.left_out == {}


def test_details_are_bounded_and_totals_are_not() -> None:
    board = Scoreboard()
    many = tuple(Failure(n, f"reason {n}", Kind.REFUSED) for n in range(3))
    for number in range(1, HISTORY + 101):
        board.finished(outcome(number, failures=many))
        board.saved(number, 0.0)
    shown = board.snapshot()
    assert [line.round for line in shown.rounds] == list(range(101, HISTORY + 101))
    assert len(shown.failures) == LATEST
    assert (shown.failures[0].round, shown.failures[0].reason) == (HISTORY + 100, "reason 2")
    totals = shown.totals
    assert (totals.rounds, totals.updates) == (HISTORY + 100, 3 * (HISTORY + 100))
    assert totals.failures == {Kind.REFUSED: 3 * (HISTORY + 100)}
    assert (totals.bytes_down, totals.bytes_up) == (40 * (HISTORY + 100), 30 * (HISTORY + 100))


def test_names_of_phases_are_few() -> None:
    board = Scoreboard()
    for number in range(1, 60):
        board.finished(
            outcome(number, phases={f"phase {number}": 1.0, "sending": 1.0, "folding": float("nan")})
        )
    assert board.snapshot().totals.phases == {"sending": 59.0, "other": 59.0}


def test_reasons_are_cut_and_cannot_break_a_line() -> None:
    board = Scoreboard()
    board.abandoned(1, 0, [Failure(1, "one\ntwo\x1b[31m\x00" + "x" * 10_000)])
    reason = board.snapshot().failures[0].reason
    assert reason.startswith("one two")
    assert reason.isprintable()
    assert len(reason) == 300


def test_trouble_lasts_until_a_round_is_safe() -> None:
    board = Scoreboard()
    assert health(board.snapshot()) == (200, {"status": "ok"})
    board.trouble("No space left on device")
    board.finished(outcome(1))
    assert board.snapshot().trouble == "No space left on device"
    assert health(board.snapshot()) == (503, {"status": "degraded"})
    board.saved(1, 0.1)
    assert health(board.snapshot()) == (200, {"status": "ok"})


def test_a_restart_remembers() -> None:
    before = Scoreboard()
    declined = (Failure(4, "flat battery", Kind.DECLINED),)
    for number in (1, 2, 3):
        before.finished(outcome(number, failures=declined))
    after = Scoreboard()
    after.restore([record(3), record(0), record(2), record(1, phones=99), record(1)])
    assert after.snapshot().rounds == before.snapshot().rounds
    assert after.snapshot().totals == before.snapshot().totals
    assert after.snapshot().failures == before.snapshot().failures
    assert after.snapshot().round == 3
    after.restore([record(3), record(2), record(1)])
    assert after.snapshot().totals == before.snapshot().totals


def test_a_restart_after_the_last_round_is_finished() -> None:
    board = Scoreboard(planned=2)
    board.restore([record(1), record(2)])
    assert board.snapshot().stage is Stage.FINISHED


def test_records_of_older_versions() -> None:
    board = Scoreboard()
    board.restore([{"round": 1, "failures": 3, "failed": [{"phone": 1, "reason": "x"}]}, {"round": 2}])
    assert board.snapshot().totals.rounds == 2
    assert board.snapshot().totals.failures == {Kind.FAILED: 3}


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
KEYS = ("round", "loss", "phones", "failures", "failed", "bytes_down", "bytes_up", "seconds", "phases")


@given(st.lists(st.fixed_dictionaries({}, optional=dict.fromkeys(KEYS, json_values)), max_size=5))
def test_no_record_keeps_a_server_from_starting(records: list[dict[str, Any]]) -> None:
    board = Scoreboard()
    board.restore(records)
    shown = board.snapshot()
    assert shown.totals.rounds == len(shown.rounds)
    assert all(line.seconds >= 0 and line.round > 0 for line in shown.rounds)


def test_it_may_be_read_while_it_is_written() -> None:
    """Every snapshot is of one moment: its sums agree with each other."""
    board, over = Scoreboard(), threading.Event()
    wrong: list[object] = []

    def read() -> None:
        while not over.is_set():
            totals = board.snapshot().totals
            if not (totals.updates == 3 * totals.rounds and totals.bytes_down == 40 * totals.rounds):
                wrong.append(totals)

    readers = [threading.Thread(target=read) for _ in range(4)]
    for reader in readers:
        reader.start()
    for number in range(1, 400):
        board.begun(number, 0, range(3), 3)
        board.answered(number, 3, 3)
        board.finished(outcome(number))
        board.saved(number, 0.1)
    over.set()
    for reader in readers:
        reader.join()
    assert wrong == []


def test_the_example_is_one() -> None:
    board = Scoreboard()
    busy(board)
    assert board.snapshot().totals.rounds == 36
    assert set(board.snapshot().totals.failures) == set(Kind)


def test_phones_behind_an_edge_server_count_one_by_one() -> None:
    behind = (Failure(7, "5 behind this edge server", Kind.SILENT, behind=5), Failure(1, "gone", Kind.SILENT))
    before, after = Scoreboard(), Scoreboard()
    before.finished(outcome(1, failures=behind))
    assert before.snapshot().rounds[0].failures == 6
    assert before.snapshot().totals.failures == {Kind.SILENT: 6}
    after.restore([run_folder.record_of(outcome(1, failures=behind))])
    assert after.snapshot().totals == before.snapshot().totals
    assert after.snapshot().failures == before.snapshot().failures


def test_an_edge_server_says_whether_the_one_above_is_there() -> None:
    board = Scoreboard()
    board.upstream("http://192.0.2.1 cannot be\nreached")
    assert state_line(board.snapshot()).text == (
        "Trying to reach the server above: http://192.0.2.1 cannot be reached"
    )
    board.upstream(None)
    assert state_line(board.snapshot()).text == "Waiting for a round of the server above"
    board.finished(outcome(4))
    board.saved(4, 0.1)
    board.upstream(None)
    assert state_line(board.snapshot()).text.endswith("; the last was 4")
    assert board.snapshot().trouble is None

"""The roster knows who is there by what they say, and asks no more than it must."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pocketfed.core.errors import NoPhonesError
from pocketfed.core.modality import Modality
from pocketfed.core.plan import PhoneStatus
from pocketfed.server import roster as rosters
from pocketfed.server.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from pocketfed.server.roster import Requirements, Roster, call_roll, version_of
from tests.server.loopback import LAYOUT, SIZE
from tests.server.scripted_grid import ScriptedGrid, adds, fleet, silent

GOOD = PhoneStatus(1, {Modality.PHOTO: 5}, 2_000, True, "1.10", "abc")


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        (Requirements(modalities=(Modality.SOUND,)), "holds no sounds"),
        (Requirements(free_memory=3_000), "less free memory than the 0.003 MB"),
        (Requirements(app_version="1.11"), "an app before version 1.11"),
        (Requirements(layout="other"), "another bundle"),
    ],
)
def test_what_a_phone_lacks_is_said(asked: Requirements, why: str) -> None:
    assert why in (asked.missing(GOOD) or "")


def test_a_phone_that_has_everything_is_welcome() -> None:
    everything = Requirements((Modality.PHOTO,), 2_000, True, "1.9", "abc")
    assert everything.missing(GOOD) is None
    assert "not charging" in (everything.missing(PhoneStatus(1, {Modality.PHOTO: 5}, 2_000)) or "")


@given(st.text(max_size=200))
def test_any_text_is_some_version(text: str) -> None:
    assert all(number >= 0 for number in version_of(text))


def test_statuses_are_asked_for_once_and_again_when_they_are_old() -> None:
    grid, roster, now = fleet({n: adds(1) for n in range(3)}), Roster(status_age=100), 0.0
    for now in (0.0, 10.0, 99.0):
        roster.refresh(grid, lambda: now)  # noqa: B023 - called at once
    assert grid.questions == 3
    assert roster.eligible() == {0: 100, 1: 101, 2: 102}
    roster.refresh(grid, lambda: 101.0)
    assert grid.questions == 6


def test_a_phone_that_declines_again_and_again_rests_longer_each_time_up_to_a_bound() -> None:
    grid, roster = fleet({0: adds(1)}), Roster(status_age=math.inf)
    roster.refresh(grid, lambda: 0.0)
    now, rests = 0.0, []
    for _ in range(7):
        roster.rest([100], lambda: now)  # noqa: B023 - called at once
        rests.append(next(s for s in range(10_000) if roster.eligible(lambda: now + s)))  # noqa: B023
        now += rests[-1]
    assert rests == [30, 60, 120, 240, 480, 900, 900]
    now += rosters.LONGEST_REST
    roster.refresh(grid, lambda: now)
    roster.rest([100], lambda: now)
    assert not roster.eligible(lambda: now + 29)
    assert roster.eligible(lambda: now + 30) == {0: 100}  # what it said long ago is forgotten


def test_a_question_of_another_run_is_not_waited_for() -> None:
    roster, lost, grid = Roster(), fleet({0: silent}), fleet({0: adds(1)})
    lost.push_messages = lambda messages: [""] * len(list(messages))  # type: ignore[method-assign]
    roster.refresh(lost, lambda: 0.0)
    assert roster.eligible() == {}
    roster.refresh(grid, lambda: 1.0)
    assert roster.eligible() == {0: 100}


def test_a_roster_that_never_asks_again_asks_once() -> None:
    grid, roster = fleet({n: adds(1) for n in range(3)}), Roster(status_age=math.inf)
    call_roll(grid, roster, expected=3, patience=0.0)
    roster.refresh(grid)
    assert grid.questions == 3


def test_only_who_is_online_is_eligible() -> None:
    grid, roster = fleet({n: adds(1) for n in range(3)}), Roster()
    roster.refresh(grid)
    grid.online = {101}
    roster.refresh(grid)
    assert roster.eligible() == {1: 101}
    assert roster.counts() == {"seen": 3, "online": 1, "eligible": 1, "benched": 0}


def test_a_benched_phone_comes_back_by_answering() -> None:
    grid, roster = fleet({n: adds(1) for n in range(2)}), Roster()
    roster.refresh(grid)
    roster.bench([100])
    assert roster.eligible() == {1: 101}
    assert roster.counts()["benched"] == 1
    roster.refresh(grid)
    assert roster.eligible() == {0: 100, 1: 101}


def test_of_two_nodes_with_one_number_the_one_that_said_so_first_takes_part(tmp_path: Path) -> None:
    """Also when both have said so again, after a restart, and when it may not be asked; and again when it is back."""
    status = {5: PhoneStatus(8), 9: PhoneStatus(7)}
    grid, roster = ScriptedGrid({5: adds(1), 9: adds(1)}, status), Roster(status_age=10.0)
    roster.refresh(grid, lambda: 0.0)
    assert roster.eligible() == {7: 9, 8: 5}
    status[5] = PhoneStatus(7)
    grid.online = {5}
    roster.refresh(grid, lambda: 20.0)
    assert roster.eligible() == {7: 5}
    grid.online = None
    for now in (40.0, 60.0):
        roster.refresh(grid, lambda: now)  # noqa: B023 - called at once
        assert roster.eligible() == {7: 9}
        assert roster.left_out() == {"has the number 7, as another phone has; give each its own": 1}

    saved = Checkpoint(1, 0, np.zeros(SIZE, np.float32), LAYOUT, {"round": 1}, roster.statuses)
    known = load_checkpoint(save_checkpoint(tmp_path, saved)).statuses
    again = Roster(statuses=dict(known), status_age=math.inf)
    again.refresh(grid, lambda: 0.0)
    assert again.eligible(lambda: 0.0) == {7: 9}
    again.rest([9], lambda: 0.0)
    assert again.eligible(lambda: 1.0) == {}


def test_a_number_is_free_when_whoever_had_it_is_not_known_any_more() -> None:
    grid = ScriptedGrid({5: adds(1), 9: adds(1)}, {9: PhoneStatus(7), 5: PhoneStatus(7)}, online={9})
    roster = Roster(status_age=10.0)
    roster.refresh(grid, lambda: 0.0)
    grid.online = None
    grid.statuses = {5: PhoneStatus(7)}  # the other one does not say any more who it is
    roster.refresh(grid, lambda: 20.0)
    assert roster.eligible() == {7: 5}


def test_why_phones_are_left_out_is_counted() -> None:
    """Each for one reason: what it lacks, what it did, or that another has its number."""
    grid = fleet({n: adds(1) for n in range(8)})
    status = {n: dataclasses.replace(GOOD, number=n) for n in range(8)}
    status[1] = dataclasses.replace(status[1], layout="other")
    status[2] = dataclasses.replace(status[2], layout="another")
    status[3] = dataclasses.replace(status[3], number=0)
    grid.statuses = {n + 100: status[n] for n in range(7)}  # the last one does not say who it is
    roster = Roster(Requirements(layout="abc"), status_age=math.inf)
    roster.refresh(grid, lambda: 0.0)
    roster.bench([104])
    grid.push_messages = lambda messages: ["lost" for _ in messages]  # type: ignore[method-assign]
    roster.refresh(grid, lambda: 0.0)
    roster.rest([105], lambda: 0.0)
    assert roster.eligible(lambda: 1.0) == {0: 100, 6: 106}
    assert roster.left_out(lambda: 1.0) == {
        "has another bundle": 2,
        "has the number 0, as another phone has; give each its own": 1,
        "did not answer in time, and has not been heard since": 1,
        "rests, because its last answer was a no": 1,
        "who am I?": 1,
    }
    grid.online = {100, 106}
    roster.refresh(grid, lambda: 1.0)
    assert roster.left_out(lambda: 1.0) == {}


def test_strangers_cannot_fill_the_page() -> None:
    grid, roster = fleet({n: adds(1) for n in range(30)}), Roster()
    roster.refresh(grid)
    roster.strangers = {node: f"I am\n{node}" for node in sorted(grid.train)[5:]}
    told = roster.left_out()
    assert len(told) == rosters.MOST_REASONS + 1
    assert told["for other reasons"] == 25 - rosters.MOST_REASONS
    assert told["I am 105"] == 1


def test_the_roll_ends_when_all_have_answered_or_says_who_is_missing() -> None:
    grid = fleet({n: adds(1) for n in range(3)})
    call_roll(grid, Roster(), expected=3)
    with pytest.raises(NoPhonesError, match="3 of 4 phones came within 0 seconds"):
        call_roll(grid, Roster(), expected=4, patience=0.0)
    grid.statuses = {}
    with pytest.raises(NoPhonesError, match=r"none of 3 phones can take part \(who am I\?\)"):
        call_roll(grid, Roster(), expected=3)


def test_of_phones_that_are_not_there_only_so_many_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever may come can come under any number of names."""
    monkeypatch.setattr(rosters, "MOST_AWAY", 3)
    grid, roster = fleet({n: adds(1) for n in range(8)}), Roster()
    for online in ({100, 101, 102, 103, 104}, {100, 105, 106}, {100, 107}):
        grid.online = online
        roster.refresh(grid)
    assert list(roster.statuses) == [100, 104, 105, 106, 107]


def test_whoever_answered_last_is_remembered_however_long_it_has_been_known(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rosters, "MOST_AWAY", 1)
    grid, roster = fleet({n: adds(1) for n in range(3)}), Roster(status_age=10.0)
    for now, online in ((0.0, {100}), (20.0, {101}), (40.0, {100}), (60.0, {102})):
        grid.online = online
        roster.refresh(grid, lambda: now)  # noqa: B023 - called at once
    assert set(roster.statuses) == {100, 102}

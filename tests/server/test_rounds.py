"""Rounds end in time and count what they should, whatever phones do."""

import dataclasses
import math
import time
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pytest
from flwr.app import Message
from numpy.typing import NDArray

from pocketfed.core.errors import ConfigError, NoPhonesError, UnusableModelError
from pocketfed.core.formats import Format, Packed, encode
from pocketfed.core.hyper import Hyper
from pocketfed.core.layout import Layout, Role, Slice
from pocketfed.core.plan import PACKED, Plan, Update
from pocketfed.core.travel import Travel
from pocketfed.core.wire import DECLINED
from pocketfed.server import roster as roster_module
from pocketfed.server import session as session_module
from pocketfed.server.aggregators import (
    Aggregator,
    CoordinateMedian,
    FedAvg,
    GlobalModel,
    Krum,
    build_aggregator,
)
from pocketfed.server.aggregators.sums import Sums
from pocketfed.server.buffered import run_buffered
from pocketfed.server.messages import pack_update, unpack_instruction, unpack_update
from pocketfed.server.outcome import Failure, Kind, Outcome, RoundWatcher
from pocketfed.server.roster import Roster
from pocketfed.server.rounds import run_rounds
from pocketfed.server.staleness import Staleness
from pocketfed.server.terms import Buffered, Rounds, Terms, sample_cohort
from tests.server.scripted_grid import LAYOUT, SIZE, Answer, ScriptedGrid, adds, fleet, says, silent

START = np.full(SIZE, 10, dtype=np.float32)


class Diary(RoundWatcher):
    """Everything that happened."""

    def __init__(self) -> None:
        self.outcomes: list[Outcome] = []
        self.troubles: list[str] = []
        self.cohorts: list[Sequence[int]] = []
        self.abandonments: list[Sequence[Failure]] = []
        self.waits: list[tuple[int, int]] = []

    def waiting(self, present: int, needed: int) -> None:
        self.waits.append((present, needed))

    def begun(self, round_number: int, attempt: int, cohort: Sequence[int], present: int) -> None:
        self.cohorts.append(cohort)

    def abandoned(self, round_number: int, attempt: int, failures: Sequence[Failure]) -> None:
        self.abandonments.append(failures)

    def finished(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)

    def trouble(self, text: str) -> None:
        self.troubles.append(text)


def play(
    grid: ScriptedGrid, terms: Terms, rounds: int = 1, roster: Roster | None = None
) -> tuple[Diary, NDArray[np.float32]]:
    diary = Diary()
    decided = Rounds(LAYOUT, FedAvg(), lambda r: Plan(r, 0, {}, False, Hyper()), seed=0, terms=terms)
    model = run_rounds(grid, decided, roster or Roster(), GlobalModel(START), range(1, rounds + 1), diary)
    return diary, model.weights


def kinds(outcome: Outcome) -> dict[int, Kind]:
    return {failure.phone: failure.kind for failure in outcome.failures}


def test_every_kind_of_failure_is_told_apart_and_the_others_count() -> None:
    def foreign(message: Message) -> Message | None:
        reply = adds(1)(message)
        assert reply is not None
        reply.content.config_records["update"]["layout"] = "other"
        return reply

    grid = fleet(
        {0: adds(1), 1: says("battery at 5 %", DECLINED), 2: says("crashed", 2), 3: silent, 4: foreign,
         5: says("went away", 5), 6: adds(3)}
    )  # fmt: skip
    diary, weights = play(grid, Terms(deadline=60))
    (outcome,) = diary.outcomes
    assert kinds(outcome) == {
        1: Kind.DECLINED, 2: Kind.FAILED, 3: Kind.SILENT, 4: Kind.REFUSED, 5: Kind.SILENT
    }  # fmt: skip
    assert outcome.phones == 2
    assert np.allclose(weights, START + 2)
    assert set(outcome.phases) == {"waiting", "sending", "collecting", "folding"}


def test_a_round_ends_when_as_many_as_wanted_have_answered() -> None:
    grid = fleet(dict.fromkeys(range(20), adds(1)))
    diary, _ = play(grid, Terms(participation=0.5, over_selection=0.3, in_order=False))
    assert len(diary.cohorts[0]) == 13
    assert diary.outcomes[0].phones == 10
    assert diary.outcomes[0].failures == (), "who was not needed has not failed"


def test_a_quorum_is_met_exactly_whatever_its_product_is_rounded_to() -> None:
    grid = fleet({n: adds(1) if n < 7 else silent for n in range(25)})
    diary, _ = play(grid, Terms(quorum=0.28))  # 0.28 * 25 > 7
    assert diary.outcomes[0].phones == 7


def test_below_the_quorum_the_round_begins_anew_with_other_phones() -> None:
    grid = fleet(dict.fromkeys(range(10), adds(1)))
    grid.online = set(grid.train)

    def vanish(message: Message) -> None:
        assert grid.online is not None
        grid.online.discard(message.metadata.dst_node_id)

    grid.train |= dict.fromkeys(range(100, 105), vanish)
    diary, weights = play(grid, Terms(quorum=0.8, attempts=3))
    assert [len(cohort) for cohort in diary.cohorts] == [10, 5]
    assert {failure.kind for failure in diary.abandonments[0]} == {Kind.SILENT}
    assert diary.outcomes[0].attempt == 1
    assert np.allclose(weights, START + 1)


def test_a_quorum_that_is_never_reached_ends_the_run_and_says_why() -> None:
    grid = fleet(dict.fromkeys(range(3), silent))
    with pytest.raises(NoPhonesError, match=r"begun 3 times.*100%.*no answer in time"):
        play(grid, Terms(quorum=1.0, attempts=3))


NO = {
    Kind.DECLINED: says("unplugged", DECLINED),
    Kind.FAILED: says("No space left on device", 2),
    Kind.REFUSED: adds(float("nan")),
}


@pytest.mark.parametrize("kind", NO)
def test_phones_that_say_no_rest_and_cost_no_attempt(kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are unplugged in the morning, and are at their chargers in the evening."""
    monkeypatch.setattr(session_module, "LOOK", 0.005)
    monkeypatch.setattr(roster_module, "REST", 0.02)
    monkeypatch.setattr(roster_module, "LONGEST_REST", 0.04)
    answers = {phone: iter([NO[kind]] * 5) for phone in range(3)}
    willing = adds(1)

    def answer(phone: int) -> Answer:
        return lambda message: next(answers[phone], willing)(message)

    grid = fleet({phone: answer(phone) for phone in range(3)})
    began = time.monotonic()
    diary, weights = play(grid, Terms(quorum=1.0, attempts=1))
    assert len(diary.abandonments) == 5
    assert {failure.kind for failure in diary.abandonments[0]} == {kind}
    assert time.monotonic() - began > 4 * 0.02  # nobody was asked while it rested
    assert np.allclose(weights, START + 1)


@pytest.mark.parametrize("kind", NO)
def test_saying_no_for_longer_than_the_patience_ends_the_run(
    kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_module, "LOOK", 0.005)
    monkeypatch.setattr(roster_module, "REST", 0.01)
    monkeypatch.setattr(roster_module, "LONGEST_REST", 0.01)
    grid = fleet(dict.fromkeys(range(3), NO[kind]))
    with pytest.raises(NoPhonesError, match=r"begun \d\d+ times.*(unplugged|No space|not finite)"):
        play(grid, Terms(quorum=1.0, attempts=2, patience=0.3))


def test_two_bad_phones_of_three_do_not_end_a_run_in_moments(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the defaults of [deployment]. They rest, and there are too few others to go on with."""
    monkeypatch.setattr(session_module, "LOOK", 0.005)
    broken = says("No space left on device", 2)
    grid, diary, looks = fleet({0: adds(1), 1: broken, 2: broken}), Diary(), iter([False] * 20)
    terms = Terms(minimum=2, over_selection=0.3, quorum=0.5, attempts=10, patience=86_400.0, in_order=False)
    decided = Rounds(LAYOUT, FedAvg(), lambda r: Plan(r, 0, {}, False, Hyper()), 0, terms)
    run_rounds(grid, decided, Roster(), GlobalModel(START), [1], diary, lambda: next(looks, True))
    assert diary.cohorts == [[0, 1, 2]]
    assert diary.waits[-1] == (1, 2)


def test_where_refusals_count_what_a_phone_sends_does_not_decide_who_is_asked_next() -> None:
    """As with privacy; a phone's own policy is no secret of its captures."""
    grid = fleet({0: adds(1), 1: adds(float("nan")), 2: says("unplugged", DECLINED)})
    diary, _ = play(grid, Terms(count_refused=True), 2)
    assert diary.cohorts == [[0, 1, 2], [0, 1]]


def test_emulated_phones_are_asked_again_at_once() -> None:
    grid = fleet({0: adds(1), 1: says("crashed", 2)})
    diary, _ = play(grid, Terms(), 3, Roster(rests=False))
    assert diary.cohorts == [[0, 1]] * 3


class Broken(FedAvg):
    """Makes no number of any update."""

    def finish(self, state: Sums) -> GlobalModel:
        return GlobalModel(np.full(SIZE, np.nan, dtype=np.float32))


WILD: list[Aggregator[Any]] = [Broken(), build_aggregator("fedavgm", {"learning_rate": 1e3})]


@pytest.mark.parametrize("buffered", [None, Buffered(2, 2, Staleness(5))])
@pytest.mark.parametrize("rule", WILD)
def test_a_model_that_no_phone_could_have_sent_is_not_used(
    rule: Aggregator[Any], buffered: Buffered | None
) -> None:
    """Each update is one that the guard accepts."""
    plan = lambda r: Plan(r, 0, {}, False, Hyper())
    decided = Rounds(LAYOUT, rule, plan, 0, Terms(attempts=3, in_order=False), buffered=buffered)
    diary, grid = Diary(), fleet({0: adds(1), 1: adds(1)})
    run = run_buffered if buffered else run_rounds
    with pytest.raises(
        UnusableModelError, match=r"(nan|1e\+03 away|2.83e\+03 away).* that round 1 began with"
    ):
        run(grid, decided, Roster(), GlobalModel(START), [1], diary)
    assert len(diary.troubles) == len(diary.abandonments) == 3
    assert "norm is 28.3; no phone may move them by more than 10 times that" in diary.troubles[0]
    assert diary.outcomes == []


def test_a_round_goes_on_with_other_phones_after_a_model_that_cannot_be_used() -> None:
    """Each attempt draws a cohort of its own; only phone 0 makes the rule go wild."""
    grid = fleet({0: adds(2), 1: adds(0.01), 2: adds(0.01)})
    rule = build_aggregator("fedavgm", {"learning_rate": 200})
    plan = lambda r: Plan(r, 0, {}, False, Hyper())
    decided = Rounds(LAYOUT, rule, plan, 3, Terms(participation=0.3, attempts=100))
    diary = Diary()
    run_rounds(grid, decided, Roster(), GlobalModel(START), range(1, 9), diary)
    assert diary.troubles
    assert len(diary.outcomes) == 8


def test_noise_may_move_a_model_further_than_a_phone_may() -> None:
    decided = Rounds(LAYOUT, FedAvg(), lambda r: Plan(r, 0, {}, False, Hyper()), 0, Terms(count_refused=True))
    begun = decided.begin(GlobalModel(START), 1)
    assert decided.objection(GlobalModel(START * 100), begun) is None
    assert decided.objection(GlobalModel(START * np.nan), begun) is not None


def test_a_phone_that_owes_answers_for_long_is_benched_though_rounds_end_without_it() -> None:
    """Over-selection hides it: without that it would be drawn for as long as Flower takes it for online."""
    grid, roster = fleet({0: silent, 1: adds(1), 2: adds(1)}), Roster()
    terms = Terms(participation=0.5, over_selection=0.5, deadline=0.05, in_order=False)
    benched = []
    for _ in range(4):
        diary, _ = play(grid, terms, 1, roster)
        assert diary.outcomes[0].failures == ()  # it is not to blame for this one
        benched.append(roster.counts()["benched"])
        time.sleep(0.03)
    assert benched[0] == 0
    assert 1 in benched


def test_too_few_phones_never_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_module, "LOOK", 0.01)
    grid = fleet({0: adds(1)})
    with pytest.raises(NoPhonesError, match="1 of 2 phones came within 0 seconds"):
        play(grid, Terms(minimum=2, patience=0.05))


def test_a_phone_that_was_silent_is_not_asked_again_until_it_returns() -> None:
    grid = fleet({0: silent, 1: adds(1), 2: adds(1)})
    roster = Roster()
    first, _ = play(grid, Terms(), 1, roster)
    assert kinds(first.outcomes[0]) == {0: Kind.SILENT}
    statuses = dict(grid.statuses)
    grid.statuses = {node: status for node, status in statuses.items() if node != 100}
    second, _ = play(grid, Terms(), 1, roster)
    assert second.cohorts == [[1, 2]]
    grid.statuses, grid.train[100] = statuses, adds(1)
    roster.status_age = -1  # its last answer is old by now
    third, _ = play(grid, Terms(), 1, roster)
    assert third.cohorts == [[0, 1, 2]]
    assert third.outcomes[0].phones == 3


class Absence(Diary):
    """After round 1, phone 7's answer to it comes, and phone 1 alone is there."""

    def __init__(self, grid: ScriptedGrid) -> None:
        super().__init__()
        self._grid = grid

    def finished(self, outcome: Outcome) -> None:
        super().finished(outcome)
        asked = next(message for message in self._grid.sent if message.metadata.dst_node_id == 107)
        self._grid.late = [reply for reply in (adds(3)(asked),) if reply is not None]
        self._grid.online = {101}


def test_late_answers_are_refused_or_brought_up_to_date_by_choice() -> None:
    """Phone 7 is asked in round 1, from START, and answers in round 2, which began at START + 1."""
    cases: list[tuple[Literal["refuse", "count"], int, dict[int, Kind], float]] = [
        ("refuse", 1, {7: Kind.LATE}, 2),
        ("count", 2, {}, (2 + 4) / 2),
    ]
    for late, phones, kind, moved in cases:
        grid = fleet({1: adds(1), 7: silent})
        terms = Terms(late=late, quorum=0.0, in_order=False)
        decided = Rounds(LAYOUT, FedAvg(), lambda r: Plan(r, 0, {}, False, Hyper()), 0, terms)

        diary = Absence(grid)
        model = run_rounds(grid, decided, Roster(), GlobalModel(START), [1, 2], diary)
        assert diary.outcomes[1].phones == phones
        assert sorted(diary.outcomes[1].staleness) == [0, 1][:phones]
        assert kinds(diary.outcomes[1]) == kind
        assert np.allclose(model.weights, START + moved)


@pytest.mark.parametrize("answer", [adds(3), adds(float("nan")), says("no", 2)])
def test_who_calls_itself_by_anothers_number_takes_nothing_from_it(answer: Answer) -> None:
    """Node 107 was asked in round 1 as phone 7. In round 2 it says that it is phone 1, and answers before phone 1 does."""
    grid = fleet({1: adds(1), 7: silent})

    class Impostor(Absence):
        def finished(self, outcome: Outcome) -> None:
            super().finished(outcome)
            asked = next(message for message in grid.sent if message.metadata.dst_node_id == 107)
            grid.late = [reply for reply in (answer(asked),) if reply is not None]
            roster.statuses[107] = dataclasses.replace(roster.statuses[107], number=1)

    diary, roster = Impostor(grid), Roster(status_age=math.inf)
    terms = Terms(late="count", quorum=0.0, in_order=False)
    decided = Rounds(LAYOUT, FedAvg(), lambda r: Plan(r, 0, {}, False, Hyper()), 0, terms)
    run_rounds(grid, decided, roster, GlobalModel(START), [1, 2], diary)
    assert 0 in diary.outcomes[1].staleness, "the answer of the real phone 1 counts"
    assert 101 in roster.eligible().values(), "and it does not rest for what another did"


def test_a_second_answer_of_a_phone_counts_for_nothing() -> None:
    grid = fleet({0: adds(1), 1: adds(3)})
    honest = grid.send_and_receive

    def twice(messages, *, timeout=None):  # type: ignore[no-untyped-def]
        for reply in honest(messages, timeout=timeout):
            yield reply
            yield Message(pack_update(dataclasses.replace(unpack_update(reply), examples=9)), reply_to=reply)

    grid.send_and_receive = twice  # type: ignore[method-assign]
    diary, weights = play(grid, Terms(in_order=False))
    assert np.allclose(weights, START + 2)
    assert diary.outcomes[0].phones == 2


def test_stopping_in_mid_round_leaves_the_round_undone() -> None:
    grid, diary, stop = fleet({0: adds(1), 1: silent}), Diary(), False

    def stopping() -> bool:
        return stop

    def last_words(message: Message) -> None:
        nonlocal stop
        stop = True

    grid.train[101] = last_words
    decided = Rounds(LAYOUT, FedAvg(), lambda r: Plan(r, 0, {}, False, Hyper()), 0, Terms())
    model = run_rounds(grid, decided, Roster(), GlobalModel(START), [1, 2], diary, stopping)
    assert diary.outcomes == []
    assert np.array_equal(model.weights, START)


@pytest.mark.parametrize("aggregator", ["fedavg", "ldawa"])
def test_what_does_not_travel_stays_on_the_server_as_it_began(aggregator: str) -> None:
    """The whole model is what watchers persist; phones, rule and bytes have to do with the part only."""
    head = Layout((*LAYOUT.slices, Slice("projector.w", (5,), Role.PROJECTOR, 8)))
    begun = np.linspace(1, 2, 13, dtype=np.float32)
    rule = build_aggregator(aggregator)
    decided = Rounds(head, rule, lambda r: Plan(r, 0, {}, False, Hyper()), 0, travel=Travel((Role.BACKBONE,)))
    grid, diary = fleet({0: adds(1), 1: adds(3)}), Diary()
    model = run_rounds(grid, decided, Roster(), GlobalModel(begun), [1, 2], diary)
    assert [outcome.weights.shape for outcome in diary.outcomes] == [(13,), (13,)]
    assert [(o.bytes_down, o.bytes_up) for o in diary.outcomes] == [(2 * 8 * 4, 2 * 8 * 4)] * 2
    assert np.allclose(model.weights[:8], begun[:8] + 4)
    assert np.array_equal(model.weights[8:], begun[8:])
    for message in grid.sent:
        record = message.content.config_records["instruction"]
        assert (record["travels"], record["layout"]) == ("backbone", LAYOUT.digest)
        assert len(bytes(record["weights"])) == 8 * 4  # type: ignore[arg-type]


def test_a_late_packed_update_counts_from_what_its_round_began_with() -> None:
    """In the round after its own, which has begun with other weights."""
    travel = Travel(up=Format.FLOAT16)

    def changes(amount: float) -> Answer:
        def answer(message: Message) -> Message:
            asked = unpack_instruction(message)
            content = encode(np.full(SIZE, amount, dtype=np.float32), LAYOUT, travel.up)
            packed = Packed(travel.up, content)
            update = Update(PACKED, 1, {}, {}, asked.plan.round, asked.layout, packed=packed)
            return Message(pack_update(update), reply_to=message)

        return answer

    held: list[Message] = []

    def slow(message: Message) -> Message | None:
        late = changes(8)(message)
        assert late is not None
        held.append(late)
        return None

    grid = fleet({0: changes(1), 1: slow})
    terms = Terms(deadline=60, late="count", in_order=False)
    plan = lambda r: Plan(r, 0, {}, False, Hyper())
    decided = Rounds(LAYOUT, FedAvg(), plan, 0, terms, travel=travel)

    class Later(Diary):
        def finished(self, outcome: Outcome) -> None:
            super().finished(outcome)
            grid.late, grid.train[101] = held[:1], changes(2)

    diary = Later()
    model = run_rounds(grid, decided, Roster(), GlobalModel(START), [1, 2], diary)
    assert np.allclose(diary.outcomes[0].weights, START + 1)
    # Its change counts as if it had begun with what this round did.
    assert np.allclose(model.weights, np.mean([START + 1 + 8, START + 1 + 1], axis=0), rtol=1e-3)


def by(rule: Aggregator[Any], terms: Terms, layout: Layout = LAYOUT, **changes: Any) -> Rounds:
    plan = lambda r: Plan(r, 0, {}, False, Hyper())
    return Rounds(layout, rule, plan, 0, terms, **changes).fitted()


def test_a_rule_that_needs_phones_waits_for_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Krum needs five updates, so at half participation nine phones; a server must not end when fewer are there."""
    monkeypatch.setattr(session_module, "LOOK", 0.01)
    grid, diary = fleet(dict.fromkeys(range(9), adds(1))), Diary()
    decided = by(Krum(), Terms(participation=0.5, minimum=2, patience=30))
    assert decided.terms.minimum == 9
    grid.online = set(list(grid.train)[:6])

    class Arrival(Diary):
        def waiting(self, present: int, needed: int) -> None:
            super().waiting(present, needed)
            grid.online = set(grid.train)

    diary = Arrival()
    model = run_rounds(grid, decided, Roster(), GlobalModel(START), [1], diary)
    assert diary.waits == [(6, 9)]
    assert diary.outcomes[0].phones == 5
    assert np.allclose(model.weights, START + 1)
    assert by(Krum(), Terms(minimum=20)).terms.minimum == 20
    assert by(FedAvg(), Terms(participation=0.1)).terms == Terms(participation=0.1, minimum=1)


MEGABYTE = Layout((Slice("backbone.w", (250_000,), Role.BACKBONE, 0), Slice("projector.w", (10**6,), Role.PROJECTOR, 250_000)))  # fmt: skip
"""1 MB of what travels, and 4 that stay."""


def test_a_burst_of_phones_ends_no_round_of_a_rule_that_keeps_all_updates() -> None:
    """There is memory for seven updates: no more are wanted, and late ones come on top."""
    part = Travel((Role.BACKBONE,))
    median = CoordinateMedian(memory_mb=7)
    assert by(median, Terms(), MEGABYTE, travel=part).terms.most == 7
    assert by(median, Terms(late="count"), MEGABYTE, travel=part).terms.most == 3
    assert by(median, Terms(), MEGABYTE).terms.most == 1
    wanted, cohort = sample_cohort(list(range(1000)), Terms(most=7, over_selection=0.3), 0, 1)
    assert (wanted, len(cohort)) == (7, 10)


def test_an_update_for_which_there_is_no_memory_left_is_refused_alone() -> None:
    layout = Layout((Slice("backbone.w", (250_000,), Role.BACKBONE, 0),))
    grid, diary = fleet(dict.fromkeys(range(4), adds(1))), Diary()
    grid.statuses = {n: dataclasses.replace(s, layout=layout.digest) for n, s in grid.statuses.items()}
    plan = lambda r: Plan(r, 0, {}, False, Hyper())
    decided = Rounds(layout, CoordinateMedian(memory_mb=3), plan, 0)
    run_rounds(grid, decided, Roster(), GlobalModel(np.ones(250_000, np.float32)), [1], diary)
    assert diary.outcomes[0].phones == 3
    (failure,) = diary.outcomes[0].failures
    assert failure.kind is Kind.REFUSED
    assert "memory_mb" in failure.reason


def test_what_a_rule_cannot_take_is_a_mistake_before_any_round() -> None:
    five = r"memory_mb: .*5 of 1.0 MB are 5 MB, more than 4; raise it"
    with pytest.raises(ConfigError, match=five):
        by(Krum(memory_mb=4), Terms(), MEGABYTE, travel=Travel((Role.BACKBONE,)))
    with pytest.raises(ConfigError, match=r"10 of 1\.0 MB"):  # five, and five that are late
        by(Krum(memory_mb=9), Terms(late="count"), MEGABYTE, travel=Travel((Role.BACKBONE,)))
    with pytest.raises(ConfigError, match="needs 5 updates in a round, and this one has 4"):
        by(Krum(), Terms(), buffered=Buffered(4, 8, Staleness(3)))
    with pytest.raises(ConfigError, match=r"8 of 1\.0 MB"):
        by(CoordinateMedian(memory_mb=7), Terms(), MEGABYTE, travel=Travel((Role.BACKBONE,)),
           buffered=Buffered(8, 8, Staleness(3)))  # fmt: skip
    assert by(Krum(), Terms(), buffered=Buffered(6, 8, Staleness(3))).terms.minimum == 5

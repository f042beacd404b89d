"""Rounds that do not wait: what counts, what it counts for, and that no phone holds anything up."""

import dataclasses
import itertools
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pytest
from flwr.app import Message
from numpy.typing import NDArray

from pocketfed.core.errors import NoPhonesError
from pocketfed.core.hyper import Hyper
from pocketfed.core.plan import Plan, Update
from pocketfed.core.wire import DECLINED, weights_to_bytes
from pocketfed.server import crew
from pocketfed.server import roster as roster_module
from pocketfed.server import session as session_module
from pocketfed.server.aggregators import Aggregator, Broadcast, FedAvg, GlobalModel, build_aggregator
from pocketfed.server.buffered import run_buffered
from pocketfed.server.fold import Fold
from pocketfed.server.guard import Guard
from pocketfed.server.history import History
from pocketfed.server.messages import pack_instruction, pack_update, unpack_instruction
from pocketfed.server.outcome import Kind, Outcome
from pocketfed.server.roster import Roster
from pocketfed.server.rounds import run_rounds
from pocketfed.server.staleness import Staleness
from pocketfed.server.terms import Buffered, Rounds, Terms
from tests.server.scripted_grid import LAYOUT, SIZE, Answer, ScriptedGrid, adds, fleet, says, silent
from tests.server.test_rounds import Diary, kinds

START = np.full(SIZE, 10, dtype=np.float32)
WAITS = Terms()


@pytest.fixture(autouse=True)
def _hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crew, "POLL", 0.0)


def decided(buffered: Buffered, terms: Terms = WAITS, aggregator: Aggregator[Any] | None = None) -> Rounds:
    rule = aggregator or FedAvg()
    return Rounds(LAYOUT, rule, lambda r: Plan(r, 0, {}, False, Hyper()), 0, terms, buffered=buffered)


def play(
    grid: ScriptedGrid, buffered: Buffered, versions: int, terms: Terms = WAITS, diary: Diary | None = None
) -> tuple[list[Outcome], NDArray[np.float32]]:
    diary = diary or Diary()
    numbers = range(1, versions + 1)
    model = run_buffered(grid, decided(buffered, terms), Roster(), GlobalModel(START), numbers, diary)
    return diary.outcomes, model.weights


def multiplies(factor: float, examples: int) -> Answer:
    """A phone whose work depends on the weights that it was sent."""

    def answer(message: Message) -> Message:
        asked = unpack_instruction(message)
        weights = np.float32(factor) * asked.weights
        update = Update(weights, examples, round=asked.plan.round, layout=asked.layout)
        return Message(pack_update(update), reply_to=message)

    return answer


@pytest.mark.parametrize("aggregator", ["fedavg", "ldawa"])
def test_with_a_buffer_of_all_phones_it_is_the_synchronous_mode(aggregator: str) -> None:
    phones = {n: multiplies(1 + 0.01 * (n + 1), n + 1) for n in range(5)}
    everybody = Buffered(5, 5, Staleness(3, "polynomial"))
    rule = build_aggregator(aggregator)
    found = run_buffered(
        fleet(phones), decided(everybody, aggregator=rule), Roster(), GlobalModel(START), range(1, 4), Diary()
    )
    synchronous = dataclasses.replace(decided(everybody, aggregator=rule), buffered=None)
    wanted = run_rounds(fleet(phones), synchronous, Roster(), GlobalModel(START), range(1, 4), Diary())
    np.testing.assert_array_equal(found.weights, wanted.weights)


def events(slowness: Mapping[int, int]) -> Iterator[int]:
    """The order in which phones answer that are asked again as soon as they have: by time, then by who was asked first."""
    order = itertools.count()
    due = [(slowness[phone], next(order), phone) for phone in sorted(slowness)]
    while True:
        at, _, phone = min(due)
        due.remove(min(due))
        yield phone
        due.append((at + slowness[phone], next(order), phone))


def test_updates_are_worth_what_fedbuff_says() -> None:
    """Phones of three speeds, a new version after each update, against the algorithm in plain numbers."""
    slowness = {0: 3, 1: 5, 2: 17}
    phones: dict[int, Answer] = {n: multiplies(1 + 0.01 * (n + 1), 1) for n in slowness}
    for discounts in ("weight", "step"):
        staleness = Staleness(100, "polynomial", 0.5, discounts=discounts, step=0.5)
        grid = fleet(phones)
        grid.slowness = {n + 100: slow - 1 for n, slow in slowness.items()}
        outcomes, weights = play(grid, Buffered(1, 3, staleness), 12)

        now, began, taus = 10.0, dict.fromkeys(slowness, (0, 10.0)), []
        for version, phone in enumerate(itertools.islice(events(slowness), 12)):
            asked_in, base = began[phone]
            tau = version - asked_in
            taus.append(tau)
            s = (1 + tau) ** -0.5 if discounts == "step" else 1.0  # a mean of one knows no weights
            now += 0.5 * s * (0.01 * (phone + 1) * base)
            began[phone] = (version + 1, now)
        assert [list(outcome.staleness) for outcome in outcomes] == [[tau] for tau in taus]
        assert max(taus) > 1
        np.testing.assert_allclose(weights, now, rtol=1e-6)


def test_late_updates_weigh_less_in_the_mean() -> None:
    """Phone 0 was asked two rounds ago and counts for 1 / 3, phone 1 has twice the examples and is fresh."""
    grid = fleet({0: adds(3), 1: adds(1, examples=2)})
    now = START + np.float32(5)
    begun = Broadcast(now, LAYOUT, 3)
    history = History(3).begin(Broadcast(START, LAYOUT, 1)).begin(begun)
    fold = Fold(FedAvg(), Guard(), begun, history, Staleness(2, "polynomial", 1.0))
    for phone, sent in ((0, 1), (1, 3)):
        content = pack_instruction(
            Plan(sent, 0, {}, False, Hyper()), weights_to_bytes(history.versions[sent].weights), LAYOUT.digest
        )
        instruction = Message(content, 100 + phone, "train", group_id=str(sent))
        reply = grid.train[100 + phone](instruction)
        assert reply is not None
        assert fold.take(phone, reply, sent) is None
    outcome = fold.outcome(2, 0.0, {}, 0)
    np.testing.assert_allclose(outcome.weights, now + (3 * 1 / 3 + 1 * 2) / (1 / 3 + 2), rtol=1e-6)
    assert outcome.staleness == (2, 0)


def test_as_many_phones_are_at_work_as_may_be_and_each_is_sent_the_newest_version() -> None:
    grid = fleet(dict.fromkeys(range(20), adds(1)))
    grid.slowness = {n + 100: n % 4 for n in range(20)}
    outcomes, _ = play(grid, Buffered(3, 6, Staleness(10)), 8)
    asked = [(int(m.metadata.group_id), unpack_instruction(m)) for m in grid.sent]
    assert all(round_number == instruction.plan.round for round_number, instruction in asked)
    newest = {1: START} | {outcome.round + 1: outcome.weights for outcome in outcomes}
    for round_number, instruction in asked:
        np.testing.assert_array_equal(instruction.weights, newest[round_number])
    assert [round_number for round_number, _ in asked] == sorted(round_number for round_number, _ in asked)
    assert len(asked) == sum(outcome.phones for outcome in outcomes) + 5  # the last answer's place stays free
    assert len({m.metadata.dst_node_id for m in grid.sent}) > 10


def test_silent_phones_hold_no_place_and_no_round_up() -> None:
    """Half of the phones never answer; all six places keep working to the end."""
    grid = fleet({n: silent if n % 2 else adds(1) for n in range(12)})
    outcomes, weights = play(grid, Buffered(2, 6, Staleness(50)), 30, Terms(deadline=0.02))
    assert [outcome.phones for outcome in outcomes] == [2] * 30
    assert {kind for outcome in outcomes for kind in kinds(outcome).values()} == {Kind.SILENT}
    np.testing.assert_allclose(weights, START + 30)


def test_a_phone_that_is_gone_when_it_is_asked_is_silent() -> None:
    grid = fleet({0: adds(1), 1: adds(1)})
    push = grid.push_messages

    def gone(messages: Any) -> Any:
        sent = list(messages)
        is_gone = [m.metadata.dst_node_id == 101 and m.metadata.message_type == "train" for m in sent]
        return ["" if lost else key for lost, key in zip(is_gone, push(sent), strict=True)]

    grid.push_messages = gone  # type: ignore[method-assign]
    outcomes, _ = play(grid, Buffered(1, 2, Staleness(5)), 3)
    assert [outcome.phones for outcome in outcomes] == [1, 1, 1]
    assert kinds(outcomes[0]) == {1: Kind.SILENT}


def changed(**items: Any) -> Answer:
    def answer(message: Message) -> Message | None:
        reply = adds(1)(message)
        assert reply is not None
        reply.content.config_records["update"].update(items)
        return reply

    return answer


@pytest.mark.parametrize(
    ("answer", "kind", "reason"),
    [
        (changed(round=99), Kind.REFUSED, "belongs to round 99, the phone was asked for round"),
        (changed(round=0), Kind.REFUSED, "belongs to round 0"),
        (changed(layout="other"), Kind.REFUSED, "layout"),
        (adds(float("nan")), Kind.REFUSED, "not finite"),
        (adds(1e4), Kind.REFUSED, "weights moved"),
        (says("too hot", DECLINED), Kind.DECLINED, "too hot"),
        (says("crashed", 2), Kind.FAILED, "crashed"),
    ],
)
def test_a_bad_answer_is_that_phones_failure_alone(answer: Answer, kind: Kind, reason: str) -> None:
    outcomes, weights = play(
        fleet({0: answer, 1: adds(1), 2: adds(1), 3: adds(1)}), Buffered(2, 4, Staleness(5)), 6
    )
    assert [outcome.phones for outcome in outcomes] == [2] * 6
    failures = [failure for outcome in outcomes for failure in outcome.failures]
    assert {(failure.phone, failure.kind) for failure in failures} == {(0, kind)}
    assert all(reason in failure.reason for failure in failures)
    np.testing.assert_allclose(weights, START + 6)


def test_what_is_too_stale_is_refused_and_said() -> None:
    grid = fleet({0: adds(100), 1: adds(1), 2: adds(1)})
    grid.slowness = {100: 5}
    outcomes, weights = play(grid, Buffered(1, 3, Staleness(2)), 12)
    late = [failure for outcome in outcomes for failure in outcome.failures]
    assert late
    assert {failure.kind for failure in late} == {Kind.LATE}
    assert "rounds late, 2 count" in late[0].reason
    assert max(max(outcome.staleness) for outcome in outcomes) <= 2
    np.testing.assert_allclose(weights, START + 12)


def test_nobody_is_heard_twice_in_a_round_and_a_round_of_few_phones_ends() -> None:
    outcomes, _ = play(fleet(dict.fromkeys(range(3), adds(1))), Buffered(10, 10, Staleness(5)), 4)
    assert [outcome.phones for outcome in outcomes] == [3, 3, 3, 3]


def test_below_the_quorum_a_round_begins_anew_and_in_the_end_the_run_stops() -> None:
    diary = Diary()
    grid = fleet({0: adds(1), 1: silent, 2: silent})
    with pytest.raises(NoPhonesError, match=r"begun 3 times and never had 2 updates \(no answer in time\)"):
        play(grid, Buffered(3, 3, Staleness(5)), 1, Terms(quorum=0.5, attempts=3, deadline=0.02), diary)
    assert len(diary.abandonments) == 3


@pytest.mark.parametrize("no", [says("no memory", 2), says("too hot", DECLINED), adds(float("nan"))])
def test_phones_that_say_no_rest_and_cost_no_attempt(no: Answer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_module, "LOOK", 0.005)
    monkeypatch.setattr(roster_module, "REST", 0.02)
    monkeypatch.setattr(roster_module, "LONGEST_REST", 0.04)
    answers = {phone: iter([no] * 4) for phone in (1, 2)}
    later = {phone: lambda m, left=left: next(left, adds(1))(m) for phone, left in answers.items()}
    diary, began = Diary(), time.monotonic()
    play(fleet({0: adds(1), **later}), Buffered(3, 3, Staleness(5)), 1, Terms(quorum=1.0), diary)
    assert len(diary.abandonments) == 4
    assert time.monotonic() - began > 3 * 0.02


def test_a_quorum_is_met_exactly_whatever_its_product_is_rounded_to() -> None:
    phones = {n: adds(1) if n < 7 else says("no memory", 2) for n in range(25)}
    outcomes, _ = play(fleet(phones), Buffered(25, 25, Staleness(5)), 1, Terms(quorum=0.28))  # 0.28 * 25 > 7
    assert [outcome.phones for outcome in outcomes] == [7]


def test_without_phones_it_waits_no_longer_than_its_patience() -> None:
    with pytest.raises(NoPhonesError, match="1 of 4 phones came"):
        play(fleet({0: adds(1)}), Buffered(4, 4, Staleness(5)), 1, Terms(quorum=1.0, patience=0.0))


def test_it_stops_when_told_to() -> None:
    diary = Diary()
    grid = fleet({0: silent, 1: silent})
    stop = iter([False] * 5)
    model = run_buffered(
        grid,
        decided(Buffered(1, 2, Staleness(5))),
        Roster(),
        GlobalModel(START),
        [1],
        diary,
        lambda: next(stop, True),
    )
    assert diary.outcomes == []
    assert model.weights is START


@pytest.mark.parametrize("rule", [FedAvg(), build_aggregator("ldawa")])
def test_the_order_of_answers_changes_nothing_but_rounding(rule: Aggregator[Any]) -> None:
    def run(slowness: Callable[[int], int]) -> NDArray[np.float32]:
        grid = fleet({n: multiplies(1 + 0.01 * n, n + 1) for n in range(6)})
        grid.slowness = {n + 100: slowness(n) for n in range(6)}
        everybody = decided(Buffered(6, 6, Staleness(0)), aggregator=rule)
        return run_buffered(grid, everybody, Roster(), GlobalModel(START), [1], Diary()).weights

    np.testing.assert_allclose(run(lambda n: n), run(lambda n: 5 - n), rtol=1e-6)


def test_the_same_run_twice_is_the_same_run() -> None:
    def run() -> tuple[list[Outcome], NDArray[np.float32], list[int]]:
        grid = fleet({n: multiplies(1 + 0.01 * n, n + 1) for n in range(12)})
        grid.slowness = {n + 100: n % 5 for n in range(12)}
        outcomes, weights = play(grid, Buffered(3, 5, Staleness(5, "polynomial")), 10)
        return outcomes, weights, [message.metadata.dst_node_id for message in grid.sent]

    (one, first, asked), (other, second, again) = run(), run()
    assert asked == again
    assert [outcome.staleness for outcome in one] == [outcome.staleness for outcome in other]
    np.testing.assert_array_equal(first, second)

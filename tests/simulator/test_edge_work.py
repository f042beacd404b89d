"""What an edge server answers its parent, over phones that do as they are told."""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from flwr.app import ConfigRecord, Message, RecordDict
from numpy.typing import NDArray

from pocketfed.core.errors import HomeError, MalformedObject, NoPhonesError, ProgramError, Unreachable
from pocketfed.core.formats import Format, Packed, decode, encode
from pocketfed.core.hyper import Hyper
from pocketfed.core.layout import Layout, Role, Slice
from pocketfed.core.modality import Modality
from pocketfed.core.part import Part
from pocketfed.core.plan import PACKED, PhoneStatus, Plan, Update
from pocketfed.core.travel import Travel
from pocketfed.core.wire import (
    FOLD,
    INSTRUCTION,
    STATUS,
    Value,
    instruction_items,
    read_part,
    read_status,
    weights_to_bytes,
)
from pocketfed.mobile_client.flower.agent import Agent
from pocketfed.mobile_client.flower.task import Task
from pocketfed.server import session as session_module
from pocketfed.server.aggregators import Broadcast, FedAvg, GlobalModel, build_aggregator, fold_bytes
from pocketfed.server.flower_private import with_id
from pocketfed.server.fold import Fold
from pocketfed.server.guard import Guard
from pocketfed.server.history import History
from pocketfed.server.messages import pack_instruction, pack_update, unpack_instruction
from pocketfed.server.roster import Roster
from pocketfed.server.rounds import run_rounds
from pocketfed.server.staleness import Staleness
from pocketfed.server.terms import Rounds, Terms
from pocketfed.simulator.edge import Napping
from pocketfed.simulator.edge_work import EdgeWork, Stopped, upload_seconds
from tests.server.folds import brings
from tests.server.scripted_grid import LAYOUT, SIZE, Answer, ScriptedGrid, adds, fleet, says, silent
from tests.server.test_rounds import Diary
from tests.simulator.deployed import Diary as Deployed

START = np.full(SIZE, 10, dtype=np.float32)


def edge(
    grid: ScriptedGrid,
    diary: Diary | None = None,
    stopping: bool = False,
    layout: Layout = LAYOUT,
    **terms: Any,
) -> tuple[EdgeWork, Roster]:
    wanted: dict[str, Any] = {"quorum": 0.5, "deadline": 600.0, "late": "count", "in_order": False}
    decided = Rounds(layout, FedAvg(), lambda n: Plan(n, 0, {}, False, Hyper()), 0, Terms(**wanted | terms))
    roster = Roster()
    roster.refresh(grid)
    return EdgeWork(42, decided, roster, grid, diary or Diary(), lambda: stopping), roster


def train(round_number: int = 5, seconds: float = 60.0, layout: str = LAYOUT.digest) -> Task:
    plan = Plan(round_number, 3, {Modality.SOUND: 2}, False, Hyper(learning_rate=0.5), run="the root's")
    items = instruction_items(plan, weights_to_bytes(START), layout)
    return Task("train", {INSTRUCTION: items}, time.time() + seconds)


def test_a_round_is_answered_with_the_fold() -> None:
    grid, diary = fleet({0: adds(1, examples=1), 1: adds(3, examples=3), 2: says("no", 100)}), Diary()
    work, _ = edge(grid, diary)
    part = read_part(work(train())[FOLD])
    assert np.array_equal(part.total[0], START * 4.0 + 1 + 9)
    assert (part.weight[0, 0], part.updates, part.round, part.rule) == (4.0, 2, 5, "FedAvg()")
    assert part.failures == {"declined": 1}
    (outcome,) = diary.outcomes
    assert (outcome.round, outcome.phones, outcome.failed) == (5, 2, 1)
    assert np.array_equal(outcome.weights, START)  # an edge has no weights of its own


def test_phones_get_the_plan_of_the_parent_and_less_time_than_the_edge_has() -> None:
    grid = fleet({0: adds(1), 1: adds(2)})
    work, _ = edge(grid)
    work(train(seconds=60.0))
    asked = unpack_instruction(grid.sent[0])
    assert (asked.plan.round, asked.plan.seed, asked.plan.hyper.learning_rate) == (5, 3, 0.5)
    assert (asked.plan.epochs, asked.plan.run) == ({Modality.SOUND: 2}, "the root's")
    assert (
        30 < grid.sent[0].metadata.ttl <= 40
    )  # the fold may wait 20 s for a place; late answers do not count
    work(train(seconds=8.0))
    assert 3 < grid.sent[-1].metadata.ttl <= 4
    work(train(seconds=6000.0))
    assert grid.sent[-1].metadata.ttl == 600  # its own deadline


def test_a_large_fold_gets_the_time_that_it_takes_to_travel_up() -> None:
    small, large = (FedAvg(), LAYOUT), (FedAvg(), Layout((Slice("w", (5_000_000,), Role.BACKBONE, 0),)))
    assert [fold_bytes(*of) for of in (small, large)] == [8 * (8 + 1), 8 * 5_000_001]
    assert upload_seconds(fold_bytes(*large), left=600.0) == pytest.approx(20 + 40, abs=0.01)
    assert upload_seconds(fold_bytes(*large), left=60.0) == 30.0


def test_too_few_answers_are_an_honest_failure() -> None:
    diary = Diary()
    work, _ = edge(fleet({0: adds(1), 1: silent, 2: silent}), diary)
    with pytest.raises(
        NoPhonesError, match=r"1 of 2 phones behind this edge server answered \(no answer in time"
    ):
        work(train())
    assert len(diary.abandonments) == 1
    lax, _ = edge(fleet({0: silent}), quorum=0.0)
    with pytest.raises(NoPhonesError, match="0 of 1 phones"):  # nothing is no fold
        lax(train())


def test_a_quorum_is_met_exactly_whatever_its_product_is_rounded_to() -> None:
    work, _ = edge(fleet({n: adds(1) if n < 7 else silent for n in range(25)}), quorum=0.28)  # 0.28 * 25 > 7
    assert read_part(work(train())[FOLD]).updates == 7


def test_phones_are_waited_for_in_half_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_module, "LOOK", 0.01)
    work, _ = edge(fleet({0: adds(1)}), minimum=2)
    began = time.monotonic()
    with pytest.raises(NoPhonesError, match="1 of 2 phones came within 0 seconds"):
        work(train(seconds=0.6))
    assert 0.2 < time.monotonic() - began < 5


def test_a_round_that_is_asked_for_again_draws_other_phones() -> None:
    diary = Diary()
    work, _ = edge(fleet({n: adds(1) for n in range(40)}), diary, participation=0.25)
    for task in (train(5), train(5), train(6)):
        work(task)
    first, second, third = (set(cohort) for cohort in diary.cohorts)
    assert first != second
    assert third not in (first, second)


def test_a_server_that_stops_leaves_its_work_in_the_journal() -> None:
    work, _ = edge(fleet({0: adds(1), 1: silent}), stopping=True)
    with pytest.raises(Stopped):
        work(train())


def test_what_is_not_for_this_edge_is_refused() -> None:
    work, _ = edge(fleet({0: adds(1)}))
    with pytest.raises(ProgramError, match="give it the parent's bundle"):
        work(train(layout="0" * 64))
    with pytest.raises(MalformedObject, match="cannot 'sing'"):
        work(Task("sing", {}, time.time() + 60))
    with pytest.raises(MalformedObject, match="cannot be read"):
        work(Task("train", {}, time.time() + 60))


def test_weights_that_were_rounded_for_a_phone_are_refused() -> None:
    """As from a server that takes this edge for a phone; without its own weights there is nothing to add changes to."""
    work, _ = edge(grid := fleet({0: adds(1)}))
    task = train()
    rounded: dict[str, Value] = {"format": "float16", "weights": encode(START, LAYOUT, Format.FLOAT16)}
    records = {INSTRUCTION: {**task.records[INSTRUCTION], **rounded}}
    with pytest.raises(ProgramError, match="sends weights as float16, as to a phone"):
        work(Task("train", records, task.until))
    assert grid.sent == []


def multiplies(factor: float) -> Answer:
    """A phone that is sent any format, and answers in the one that it is asked for."""

    def answer(message: Message) -> Message:
        asked = unpack_instruction(message)
        sent = decode(asked.packed, LAYOUT) if asked.packed else asked.weights
        after = np.float32(factor) * sent
        packed = None
        if asked.wanted is not Format.FLOAT32:
            packed = Packed(asked.wanted, encode(after - sent, LAYOUT, asked.wanted))
        update = Update(after, 3, round=asked.plan.round, layout=asked.layout, packed=packed)
        return Message(pack_update(update), reply_to=message)

    return answer


@pytest.mark.parametrize("up", [Format.FLOAT32, Format.FLOAT16])
@pytest.mark.parametrize("rule", ["fedavg", "ldawa-normalised"])
def test_phones_of_root_and_edge_are_sent_rounded_weights_and_come_to_those_of_one_server(
    rule: str, up: Format
) -> None:
    """The edge itself is sent exact ones. Changes are of a size that rounding would swallow."""
    phones = {n: multiplies(1 + 1e-4 * (n + 1)) for n in range(4)}
    weights = np.linspace(0.1, 0.9, SIZE, dtype=np.float32)
    travel = Travel(down=Format.FLOAT16, up=up)
    rounds = Rounds(
        LAYOUT, build_aggregator(rule), lambda n: Plan(n, 0, {}, False, Hyper()), 0, travel=travel
    )
    below = fleet({n: phones[n] for n in (2, 3)})
    roster = Roster()
    roster.refresh(below)
    work = EdgeWork(42, rounds, roster, below, Diary(), lambda: False)

    def folds(message: Message) -> Message:
        records = {INSTRUCTION: dict(message.content.config_records[INSTRUCTION])}
        made = work(Task("train", records, time.time() + 60))  # type: ignore[arg-type]
        return Message(RecordDict({FOLD: ConfigRecord(made[FOLD])}), reply_to=message)  # type: ignore[arg-type]

    root, diary = fleet({0: phones[0], 1: phones[1], 42: folds}), Diary()
    root.statuses = {**root.statuses, 142: PhoneStatus(42, layout=LAYOUT.digest, edge=True)}
    model = GlobalModel(weights)
    found = run_rounds(root, rounds, Roster(may_be_edge=lambda node: True), model, [9], diary)
    wanted = run_rounds(fleet(phones), rounds, Roster(), model, [9], Diary())
    assert diary.outcomes[0].phones == 4
    np.testing.assert_allclose(found.weights, wanted.weights, rtol=1e-6)
    assert np.abs(found.weights / weights - 1.00025).max() < 1e-6
    assert diary.outcomes[0].bytes_down == (2 + 2 + 4) * SIZE
    formats = [unpack_instruction(message).packed for message in (*root.sent, *below.sent)]
    assert [packed.format if packed else None for packed in formats] == [
        Format.FLOAT16, Format.FLOAT16, None, Format.FLOAT16, Format.FLOAT16,
    ]  # fmt: skip


def test_a_full_disk_is_said_once_and_not_blamed_on_the_server_above() -> None:
    diary = Deployed()
    napping = Napping(Roster(), diary, lambda: False)
    nobody: Any = None
    agent = Agent(nobody, nobody, nobody, nobody)
    napping.begin(nobody, nobody, agent)
    for trouble in (None, HomeError("journal: full"), HomeError("node: full")):
        agent.trouble = trouble
        for _ in range(2):
            napping.nap(0)
    agent.trouble = Unreachable("gone")
    napping.nap(0)
    assert diary.troubles == ["journal: full", "node: full"]
    assert diary.upstreams == [None, None, "gone"]


def test_an_edge_is_the_sum_and_the_least_of_its_phones() -> None:
    grid = fleet({0: adds(1), 1: adds(1)})
    photo, sound = Modality.PHOTO, Modality.SOUND
    grid.statuses = {
        100: PhoneStatus(0, {photo: 5}, 700, True, "1.10", LAYOUT.digest),
        101: PhoneStatus(1, {photo: 2, sound: 9}, 300, False, "1.9", LAYOUT.digest),
    }
    work, roster = edge(grid)
    status = read_status(work(Task("query.who", {}, 0.0))[STATUS])
    assert status == PhoneStatus(42, {photo: 7, sound: 9}, 300, False, "1.9", LAYOUT.digest, edge=True)
    grid.online = set()
    roster.refresh(grid)
    assert work.status() == PhoneStatus(42, {}, 0, False, "", LAYOUT.digest, edge=True)


WHOLE = Layout((*LAYOUT.slices, Slice("projector.w", (5,), Role.PROJECTOR, SIZE), Slice("backbone.bn.running_var", (3,), Role.BUFFER, SIZE + 5)))  # fmt: skip
SMALL = Travel((Role.BACKBONE,), up=Format.INT8)


def packs(amount: float) -> Answer:
    """A phone that changes every weight that it was sent, and sends that change as it was asked to."""

    def answer(message: Message) -> Message:
        asked = unpack_instruction(message)
        assert (asked.roles, asked.wanted, asked.layout) == (SMALL.roles, SMALL.up, LAYOUT.digest)
        change = np.linspace(-amount, amount, SIZE, dtype=np.float32)
        packed = Packed(asked.wanted, encode(change, LAYOUT, asked.wanted, np.full(SIZE, 0.5, np.float32)))
        update = Update(PACKED, 2, {}, {}, asked.plan.round, asked.layout, packed=packed)
        return Message(pack_update(update), reply_to=message)

    return answer


def test_small_updates_of_a_part_of_the_model_fold_behind_an_edge_as_at_the_root() -> None:
    """What travels and how is the parent's choice; the edge's own configuration says that everything does, as float32."""
    phones = {number: packs(amount) for number, amount in enumerate((1.0, 2.0, 4.0))}
    plan, begun = Plan(5, 3, {}, False, Hyper()), Broadcast(START, LAYOUT, 5)
    work, _ = edge(fleet({n: phones[n] for n in (1, 2)}), layout=WHOLE)
    items = instruction_items(plan, weights_to_bytes(START), LAYOUT.digest, SMALL)
    part = read_part(work(Task("train", {INSTRUCTION: items}, time.time() + 60))[FOLD])
    assert (part.updates, part.layout, part.total.shape) == (2, LAYOUT.digest, (1, SIZE))

    def at_the_root(numbers: Sequence[int], parts: Sequence[Part] = ()) -> NDArray[np.float32]:
        history = History(1).begin(begun)
        fold = Fold(FedAvg(), Guard(), begun, history, Staleness(), SMALL)
        content = pack_instruction(plan, weights_to_bytes(START), LAYOUT.digest, SMALL)
        for number in numbers:
            reply = phones[number](with_id(Message(content, 100 + number, "train"), f"question-{number}"))
            assert reply is not None
            assert fold.take(number, reply, 5) is None
        for received in parts:
            assert fold.take(9, brings(received), 5, edge=True) is None
        return fold.outcome(1, 0.0, {}, 0).weights

    tree, flat = at_the_root([0], [part]), at_the_root([0, 1, 2])
    assert np.allclose(tree, flat, rtol=1e-6, atol=0)
    assert np.allclose(flat, START + np.linspace(-7 / 3, 7 / 3, SIZE), atol=7 / 3 / 127)
    foreign = instruction_items(plan, weights_to_bytes(START), WHOLE.part([Role.PROJECTOR]).digest, SMALL)
    with pytest.raises(ProgramError, match="give it the parent's bundle"):
        work(Task("train", {INSTRUCTION: foreign}, time.time() + 60))

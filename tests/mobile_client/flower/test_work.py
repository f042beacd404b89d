"""Work: a phone's answers to the server's questions, from its own captures and under its own policy."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pocketfed.core.errors import Declined, MalformedObject, ProgramError, TooFewCaptures
from pocketfed.core.hyper import Hyper
from pocketfed.core.layout import Layout, Role, Slice
from pocketfed.core.modality import Modality
from pocketfed.core.plan import Plan
from pocketfed.core.program_spec import Input, ProgramSpec
from pocketfed.core.wire import instruction_items, read_status, read_update, weights_to_bytes
from pocketfed.mobile_client.flower.task import Task
from pocketfed.mobile_client.flower.work import Work
from pocketfed.mobile_client.gate import Gate
from pocketfed.mobile_client.phone import CaptureSource
from pocketfed.mobile_client.phone_memory import PhoneMemory
from pocketfed.mobile_client.runtime import Array
from pocketfed.mobile_client.taking_part import Own

UNTIL = 4e9
"""In the year 2096."""

LAYOUT = Layout((Slice("backbone.w", (2,), Role.BACKBONE, 0), Slice("projector.w", (1,), Role.PROJECTOR, 2)))
SPEC = ProgramSpec(3, 3, 4, {Modality.PHOTO: Input((2,), "uint8", 1)}, mixed=False, layout=LAYOUT.digest)


class Adder:
    """A runtime whose step adds one to every weight."""

    def run(self, method: str, inputs: Sequence[Array]) -> tuple[Array, ...]:
        theta, state = inputs[:2]
        return np.float32(0.5), theta + 1, state  # type: ignore[return-value]


class Folder:
    """A store that finds some captures with every scan, each decoded on its own."""

    def __init__(self, found: int = 4, problem: str | None = None) -> None:
        self.found, self.problem = found, problem
        self.count = 0

    def scan(self, between: Callable[[], None], /) -> None:
        for _ in range(self.found):
            between()
            self.count += 1

    def snapshot(self) -> Mapping[Modality, CaptureSource]:
        return {Modality.PHOTO: np.zeros((self.count, 2), np.uint8)}


class Moody:
    """A policy that refuses at first, or changes its mind after some steps."""

    def __init__(self, reason: str | None = None, steps: int = 1000) -> None:
        self.reason, self.steps = reason, steps
        self.waited: list[float] = []

    def refusal(self) -> str | None:
        return self.reason

    def pause(self, until: float) -> None:
        self.waited.append(until)
        if len(self.waited) > self.steps:
            raise Declined("the phone is in use")


def work(
    gate: Moody | Gate | None = None, memory: Path = Path("/nowhere"), store: Folder | None = None
) -> Work:
    own = Own(LAYOUT, lambda: np.full(3, 8, dtype=np.float32), PhoneMemory(memory))
    return Work(
        7, SPEC, Adder(), store or Folder(), gate or Gate(None), "1.2", charging=lambda: True, own=own
    )


def task(layout: str = SPEC.layout, weights: int = 3, epochs: int = 1) -> Task:
    plan = Plan(3, 5, {Modality.PHOTO: epochs}, mixed=False, hyper=Hyper())
    items = instruction_items(plan, weights_to_bytes(np.zeros(weights, np.float32)), layout)
    return Task("train", {"instruction": items}, until=UNTIL)


def test_training_answers_with_an_update_from_the_captures_of_now() -> None:
    gate = Moody()
    update = read_update(work(gate)(task(epochs=2))["update"])
    assert update.weights.tolist() == [2.0, 2.0, 2.0]
    assert (update.round, update.examples, update.layout) == (3, 8, SPEC.layout)
    assert gate.waited == [UNTIL] * (4 + 2)  # four files, two steps


def test_a_query_is_answered_with_a_status(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pocketfed.mobile_client.flower.work.free_memory", lambda: 3_000_000)
    status = read_status(work()(Task("query", {}, 0.0))["status"])
    assert (status.number, status.captures, status.charging) == (7, {Modality.PHOTO: 4}, True)
    assert (status.app_version, status.layout) == ("1.2", SPEC.layout)
    assert status.free_memory == 3_000_000


def test_the_policy_declines_before_or_in_the_middle() -> None:
    with pytest.raises(Declined, match="not charging"):
        work(Moody("not charging"))(task())
    with pytest.raises(Declined, match="in use"):
        work(Moody(steps=5))(task(epochs=3))
    with pytest.raises(Declined, match="is over"):
        work()(replace(task(), until=1.0))


def test_only_training_is_refused_beforehand() -> None:
    phone = work(Moody("not charging"))
    assert [phone.refusal(kind) for kind in ("train", "train.more", "query")] == [
        "not charging", "not charging", None,
    ]  # fmt: skip
    assert work().refusal("train") is None


def test_decoding_before_a_round_ends_with_the_policy_and_with_the_time() -> None:
    for gate, until in ((Moody(steps=2), UNTIL), (Moody(), 1.0)):
        phone = work(gate)
        with pytest.raises(Declined):
            phone(replace(task(), until=until))
        assert len(phone.store.snapshot()[Modality.PHOTO]) < 4


def test_a_phone_without_captures_says_that_it_could_not_see_them_and_names_no_folder() -> None:
    reason = "phone 7 has too few captures to train on"
    for store, expected in (
        (Folder(1), reason),
        (
            Folder(1, "/home/me/album does not exist"),
            f"{reason}: it cannot see or store all of them; its own log says why",
        ),
    ):
        with pytest.raises(TooFewCaptures) as refused:
            work(store=store)(task())
        assert str(refused.value) == expected


def test_a_query_decodes_nothing_while_the_policy_refuses() -> None:
    status = read_status(work(Moody("in use"))(Task("query", {}, 0.0))["status"])
    assert status.captures == {Modality.PHOTO: 0}


@pytest.mark.parametrize("asked", [task(layout="cd" * 32), task(weights=4)])
def test_weights_of_another_bundle_are_refused(asked: Task) -> None:
    with pytest.raises(ProgramError, match="bundle"):
        work()(asked)


@pytest.mark.parametrize(
    "asked",
    [
        Task("evaluate", {}, 0.0),
        Task("train", {}, 0.0),
        Task("train", {"instruction": {}}, 0.0),
        replace(task(), records={"instruction": {**task().records["instruction"], "weights": b"abc"}}),
    ],
)
def test_other_tasks_are_refused(asked: Task) -> None:
    with pytest.raises(MalformedObject):
        work()(asked)

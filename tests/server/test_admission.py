"""Few answers are under way at a time, none holds up others, and each is bounded in all its objects."""

import asyncio

import pytest

from pocketfed.server.admission import (
    LOOK_FOR_A_PLACE,
    MOST_OFFERS,
    MOST_UNDER_WAY,
    PLACE,
    SMALL,
    WAIT_FOR_A_PLACE,
    Admission,
)

LARGEST = 10 * SMALL
LARGE = 2 * SMALL


class Clock:
    """In place of the time."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr("time.monotonic", made)
    return made


def crowd(places: Admission, first_node: int, count: int) -> list[bool]:
    """Whether each of so many nodes gets a place for an answer of its own."""
    return [places.take_place(node, f"answer {node}") for node in range(first_node, first_node + count)]


def test_only_so_many_answers_are_under_way() -> None:
    places = Admission(LARGEST)
    assert crowd(places, 0, MOST_UNDER_WAY + 2) == [True] * MOST_UNDER_WAY + [False] * 2
    assert places.take_place(0, "answer 0")  # it keeps its own
    places.gone("answer 0")
    assert crowd(places, 100, 2) == [True, False]
    places.leave("answer 1")
    assert crowd(places, 200, 2) == [True, False]


def test_a_place_is_anothers_when_its_answer_does_not_get_on(clock: Clock) -> None:
    places = Admission(LARGEST)
    crowd(places, 0, MOST_UNDER_WAY)
    places.claim("answer 1", ["answer 1", "weights"])
    clock.now += PLACE - 1
    places.pushed("weights", LARGE, lambda answer: False)
    clock.now += 2
    assert crowd(places, 100, MOST_UNDER_WAY) == [True] * (MOST_UNDER_WAY - 1) + [False]
    assert not places.take_place(0, "answer 0")
    assert places.take_place(1, "answer 1")  # the one that moved


def test_a_node_has_one_place() -> None:
    """Whatever it offers: others are not kept waiting by what one of them makes up."""
    places = Admission(LARGEST)
    assert all(places.take_place(7, f"made up {number}") for number in range(3 * MOST_UNDER_WAY))
    assert crowd(places, 100, MOST_UNDER_WAY) == [True] * (MOST_UNDER_WAY - 1) + [False]


@pytest.mark.parametrize(
    ("size", "whole", "leaves"), [(SMALL, True, True), (SMALL, False, False), (LARGE, True, False)]
)
def test_only_an_answer_without_weights_gives_its_place_back_when_it_is_here(
    size: int, whole: bool, leaves: bool
) -> None:
    """Statuses wait for the end of a round, however many there are."""
    places = Admission(LARGEST)
    crowd(places, 0, MOST_UNDER_WAY)
    places.claim("answer 0", ["answer 0", "record"])
    places.pushed("record", size, lambda answer: whole and answer == "answer 0")
    assert crowd(places, 100, 1) == [leaves]


def test_a_call_waits_for_a_place_but_not_for_ever(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    places, looks = Admission(LARGEST), list[float]()
    crowd(places, 0, MOST_UNDER_WAY)

    async def sleep(seconds: float) -> None:
        looks.append(seconds)
        clock.now += seconds
        for node in (*range(MOST_UNDER_WAY), 100):
            places.pushed(f"answer {node}", 1, lambda answer: False)  # all of them get on
        if leaves_at is not None and clock.now >= leaves_at:
            places.leave("answer 3")

    monkeypatch.setattr("asyncio.sleep", sleep)
    leaves_at: float | None = clock.now + 3
    assert asyncio.run(places.wait_for_place(100, "answer 100"))
    assert sum(looks) == 3
    looks.clear()
    leaves_at = None
    assert not asyncio.run(places.wait_for_place(200, "answer 200"))
    assert WAIT_FOR_A_PLACE <= sum(looks) <= WAIT_FOR_A_PLACE + 2 * LOOK_FOR_A_PLACE


def test_offers_are_noted_while_their_instruction_is_out_and_there_are_not_many() -> None:
    offers = Admission(LARGEST)
    offers.expect("asked")
    offers.offer("unheard of", "answer")
    assert offers.offered({"asked", "unheard of"}) == set()
    for number in range(MOST_OFFERS):
        offers.offer("asked", f"answer {number}")
    offers.offer("asked", "answer 0")  # again
    with pytest.raises(ValueError, match="too many answers"):
        offers.offer("asked", "one more")
    assert offers.offered({"asked", "unheard of"}) == {"asked"}
    assert offers.end("asked") == {f"answer {number}" for number in range(MOST_OFFERS)}
    assert offers.end("asked") == set()
    assert offers.offered({"asked"}) == set()


def test_an_answer_is_bounded_in_all_its_objects() -> None:
    sizes = Admission(LARGEST)
    sizes.claim("answer", ["answer", "a", "b"])
    sizes.check_size("a", LARGEST)
    sizes.pushed("a", LARGEST - 10, lambda answer: False)
    sizes.check_size("b", 10)
    with pytest.raises(ValueError, match=f"{LARGEST + 1} bytes; the most is {LARGEST}"):
        sizes.check_size("b", 11)
    sizes.check_size("of another", LARGEST)
    for name in ("answer", "a", "b"):
        sizes.gone(name)
    sizes.check_size("b", LARGEST)


def test_of_another_run_nothing_is_left() -> None:
    before = Admission(LARGEST)
    crowd(before, 0, MOST_UNDER_WAY)
    before.expect("asked")
    before.offer("asked", "answer 0")
    before.pushed("answer 0", LARGEST, lambda answer: False)
    before.clear()
    assert crowd(before, 100, MOST_UNDER_WAY) == [True] * MOST_UNDER_WAY
    assert before.end("asked") == set()
    before.check_size("answer 0", LARGEST)

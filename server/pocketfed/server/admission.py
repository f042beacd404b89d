"""Which answers phones may push, and how much of them: offers, places and bytes.

An instruction is out from `expect` to `end`. A phone offers an answer to it, waits for one of few places, and pushes the
objects that the answer is made of; the place is free when the answer is gone, or does not get on.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

MOST_OFFERS = 8
"""Answers to one instruction; a phone whose upload took too long offers another one."""

MOST_UNDER_WAY = 32
"""Answers that have a place: they are being pushed, or wait to be folded. A phone that offers one more waits for one."""

WAIT_FOR_A_PLACE = 20.0
"""Seconds that a call waits at most, before it is answered 503 and comes again; clients hang up after 30."""

LOOK_FOR_A_PLACE = 0.25
"""Seconds between two looks: hundreds of phones may be waiting, and each look takes time from those that have one."""

PLACE = 15.0
"""Seconds after which the place of an answer that does not get on is another's."""

SMALL = 1 << 16
"""Bytes of an answer that gives its place back as soon as all of it is here: it has no weights, and may wait long."""


@dataclass(frozen=True)
class _Place:
    """Of an answer: its id, and until when (`time.monotonic`) the place is its own."""

    answer: str
    until: float


class Admission:
    """What is known of answers that are offered and pushed, by their ids; may be used from any thread."""

    def __init__(self, largest: int) -> None:
        """Begin with none.

        Args:
            largest: bytes of all objects of an answer.
        """
        self._largest, self._lock = largest, threading.RLock()
        self._offers: dict[str, set[str]] = {}  # by instruction that is out: answers that were offered
        self._places: dict[int, _Place] = {}  # by node whose answer is under way
        self._answers: dict[str, str] = {}  # by object: the answer that named it first
        self._bytes: dict[str, int] = {}  # by answer: pushed so far

    def expect(self, instruction: str) -> None:
        """An instruction goes out; until its end, what is offered to it is noted."""
        with self._lock:
            self._offers[instruction] = set()

    def offer(self, instruction: str, answer: str) -> None:
        """Note that a phone offers an answer.

        Raises:
            ValueError: too many others were offered to the same instruction.
        """
        with self._lock:
            offers = self._offers.get(instruction)
            if offers is not None:
                if len(offers) == MOST_OFFERS and answer not in offers:
                    raise ValueError("too many answers to one message")
                offers.add(answer)

    def offered(self, instructions: set[str]) -> set[str]:
        """Those of these instructions to which an answer was offered."""
        with self._lock:
            return {instruction for instruction in instructions if self._offers.get(instruction)}

    def end(self, instruction: str) -> set[str]:
        """An instruction is out no more; the answers that were offered to it."""
        with self._lock:
            return self._offers.pop(instruction, set())

    async def wait_for_place(self, node: int, answer: str) -> bool:
        """Whether a node's answer may be pushed, at once or within `WAIT_FOR_A_PLACE` seconds; see `take_place`."""
        until = time.monotonic() + WAIT_FOR_A_PLACE
        while not self.take_place(node, answer):
            if time.monotonic() > until:
                return False
            await asyncio.sleep(LOOK_FOR_A_PLACE)
        return True

    def take_place(self, node: int, answer: str) -> bool:
        """Whether a node's answer may be pushed now; then it has a place until it is gone, or does not get on.

        A node has one place: what it offered before gets on without, or not at all.
        """
        with self._lock:
            moment = time.monotonic()
            if node not in self._places and len(self._places) >= MOST_UNDER_WAY:
                self._places = {other: place for other, place in self._places.items() if place.until > moment}
            if node not in self._places and len(self._places) >= MOST_UNDER_WAY:
                return False
            self._places[node] = _Place(answer, moment + PLACE)
            return True

    def leave(self, answer: str) -> None:
        """An answer needs its place no more, if it has one."""
        with self._lock:
            if (node := self._holder(answer)) is not None:
                del self._places[node]

    def claim(self, answer: str, objects: Iterable[str]) -> None:
        """These objects are pushed for this answer, and their bytes are its."""
        with self._lock:
            self._answers.update(dict.fromkeys(objects, answer))

    def check_size(self, name: str, size: int) -> None:
        """Whether an object may still come.

        Raises:
            ValueError: its answer would have too many bytes.
        """
        with self._lock:
            total = self._bytes.get(self._answer_of(name), 0) + size
            if total > self._largest:
                raise ValueError(f"an answer of {total} bytes; the most is {self._largest}")

    def pushed(self, name: str, size: int, is_whole: Callable[[str], bool]) -> None:
        """An object has come, so its answer gets on: it keeps its place, or needs it no more.

        Args:
            name: of the object.
            size: bytes.
            is_whole: whether all objects of an answer are here.
        """
        with self._lock:
            answer = self._answer_of(name)
            self._bytes[answer] = total = self._bytes.get(answer, 0) + size
            if (node := self._holder(answer)) is not None:
                self._places[node] = _Place(answer, time.monotonic() + PLACE)
                if total <= SMALL and is_whole(answer):
                    del self._places[node]

    def gone(self, name: str) -> None:
        """An object, or an answer, is not held any more."""
        with self._lock:
            self.leave(name)
            self._answers.pop(name, None)
            self._bytes.pop(name, None)

    def clear(self) -> None:
        """Nothing is out, and nothing held."""
        with self._lock:
            for known in (self._offers, self._places, self._answers, self._bytes):
                known.clear()

    def _answer_of(self, name: str) -> str:
        return self._answers.get(name, name)

    def _holder(self, answer: str) -> int | None:
        return next((node for node, place in self._places.items() if place.answer == answer), None)

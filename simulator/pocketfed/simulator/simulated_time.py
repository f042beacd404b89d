"""Time that only passes in the books: how long phones take over a round, by a clock that events advance."""

import heapq
import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from flwr.app import Error, Message, MessageType
from flwr.serverapp import Grid

from pocketfed.core.randomness import generator
from pocketfed.server.flower_private import with_id
from pocketfed.server.run_grid import RunGrid
from pocketfed.simulator.inprocess import NO_ANSWER


@dataclass(frozen=True)
class Delays:
    """How long phones take over a round, from the instruction to the answer.

    Attributes:
        seconds: dealt to phones in turn, each at least 0.
        jitter: share in [0, 1] by which a round may be shorter or longer, evenly distributed.
        seed: of the run.
    """

    seconds: tuple[float, ...]
    jitter: float
    seed: int

    def of(self, phone: int, round_number: int) -> float:
        """Seconds that a phone takes over a round; always the same ones."""
        usual = self.seconds[phone % len(self.seconds)]
        if self.jitter == 0:
            return usual
        return usual * (1 + self.jitter * generator(self.seed, "delay", phone, round_number).uniform(-1, 1))


@dataclass
class SimulatedClock:
    """Seconds since the run began; it never falls."""

    seconds: float = 0.0

    def advance(self, to: float) -> None:
        """An event has happened."""
        self.seconds = max(self.seconds, to)


@dataclass(frozen=True, order=True)
class _Event:
    """When an answer is due, and to what; of two at the same time, the one that was asked for first."""

    at: float
    position: int
    key: str
    in_time: bool


class SimulatedGrid(RunGrid):
    """A grid whose answers come in the order of simulated time, whichever phone is done first for real.

    Phones do their work for real in the grid inside, except where they would be too slow: there a message expires at
    its deadline in simulated time. Questions take no time.
    """

    def __init__(
        self, inside: Grid, clock: SimulatedClock, delays: Delays, number_of: Callable[[int], int]
    ) -> None:
        """Nothing is sent yet.

        Args:
            inside: carries messages.
            clock: is advanced.
            delays: how long phones take.
            number_of: the phone of a node.
        """
        super().__init__(inside.run)
        self._inside, self._clock, self._delays, self._number_of = inside, clock, delays, number_of
        self._events: list[_Event] = []  # a heap
        self._slow: dict[str, Message] = {}
        self._positions = itertools.count()

    def get_node_ids(self) -> Iterable[int]:
        """See Flower's `Grid`."""
        return self._inside.get_node_ids()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Send; an instruction's answer is due when its phone's time has passed, or at its deadline."""
        return [key for message in messages for key in self._push(message)]

    def _push(self, message: Message) -> Iterable[str]:
        if message.metadata.message_type != MessageType.TRAIN:
            return self._inside.push_messages([message])
        takes, limit = self._takes(message), message.metadata.ttl
        position, in_time = next(self._positions), takes <= limit
        if in_time:
            (key,) = self._inside.push_messages([message])
        else:
            key = f"slow-{position}"
            self._slow[key] = with_id(message, key)
        if key:
            heapq.heappush(
                self._events, _Event(self._clock.seconds + min(takes, limit), position, key, in_time)
            )
        return [key]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """The one answer that is due next, if its phone is done for real; until then, time stands still."""
        wanted = set(message_ids)
        wanted_events = wanted & {event.key for event in self._events}
        if not wanted_events:  # but answers to questions
            return self._inside.pull_messages(wanted)
        while self._events[0].key not in wanted_events:  # nobody waits for it any more
            self._slow.pop(heapq.heappop(self._events).key, None)
        due = self._events[0]
        replies = (
            list(self._inside.pull_messages([due.key]))
            if due.in_time
            else [_expired(self._slow.pop(due.key))]
        )
        if replies:
            heapq.heappop(self._events)
            self._clock.advance(due.at)
        return replies

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterator[Message]:
        """Answers in the order of the grid inside; at the end it is as late as the slowest of them made it."""
        began, limit = self._clock.seconds, float("inf") if timeout is None else timeout
        slow: list[Message] = []

        def in_time() -> Iterator[Message]:
            for message in messages:
                if self._takes(message) <= limit:
                    yield message
                else:
                    slow.append(message)

        for reply in self._inside.send_and_receive(in_time(), timeout=timeout):
            self._clock.advance(began + self._takes(reply))
            yield reply
        for message in slow:
            self._clock.advance(began + limit)
            yield _expired(with_id(message, f"slow-{next(self._positions)}"))

    def _takes(self, message: Message) -> float:
        """Seconds that the phone of an instruction, or of its answer, takes."""
        metadata = message.metadata
        node = metadata.src_node_id if metadata.reply_to_message_id else metadata.dst_node_id
        return self._delays.of(self._number_of(node), int(metadata.group_id))


def _expired(message: Message) -> Message:
    return Message(Error(NO_ANSWER, "no answer in time"), reply_to=message)

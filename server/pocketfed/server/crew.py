"""The phones that are at work: who is asked next, who has answered, and whose time is over."""

import time
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from flwr.app import Message, MessageType, RecordDict
from flwr.serverapp import Grid

from pocketfed.core.randomness import generator
from pocketfed.server.roster import Roster

LOOK = 0.5
"""Seconds between two looks for phones that came, while more could be at work."""

POLL = 0.05
"""Seconds to wait where no answer is here."""


@dataclass(frozen=True)
class Errand:
    """What a phone was asked: for which round, and until when (`time.monotonic`) it may answer."""

    phone: int
    node: int
    round: int
    until: float


Answer = tuple[Errand, Message | None]
"""What a phone was asked, and what came; None is silence until its time was over."""


class Crew:
    """Keeps as many phones at work as it may; a silent one loses its place at its deadline, and is benched."""

    def __init__(self, grid: Grid, roster: Roster, size: int, deadline: float, seed: int) -> None:
        """Nobody is at work.

        Args:
            grid: carries messages.
            roster: who is there.
            size: phones that may be at work at any time.
            deadline: seconds that each of them has.
            seed: of the run; chooses phones.
        """
        self._grid, self._roster, self._size, self._deadline, self._seed = grid, roster, size, deadline, seed
        self._errands: dict[str, Errand] = {}  # by message
        self._answers: deque[Answer] = deque()  # that nobody has looked at
        self._eligible: Mapping[int, int] = {}
        self._looked = float("-inf")

    @property
    def at_work(self) -> Sequence[int]:
        """The phones that have been asked and are not done with, in rising order."""
        return sorted(
            {e.phone for e in self._errands.values()} | {errand.phone for errand, _ in self._answers}
        )

    @property
    def present(self) -> int:
        """Phones that may be asked, whether or not they are at work."""
        return len(self._eligible)

    def look(self, eligible: Mapping[int, int] | None = None) -> None:
        """Learn who is there, by asking the roster unless somebody knows."""
        if eligible is None:
            self._roster.refresh(self._grid)
            eligible = self._roster.eligible()
        self._eligible, self._looked = eligible, time.monotonic()

    def fill(
        self, content: Callable[[], RecordDict], round_number: int, spent: Collection[int], asked: int
    ) -> int:
        """Ask idle phones, drawn at random, until as many are at work as may be; how many were asked.

        Args:
            content: of the instruction; called if anybody is asked.
            round_number: for which they are asked.
            spent: phones that are not asked in this round any more.
            asked: how many were asked in this round before, so that each draw is another one.
        """
        busy = self.at_work
        free = self._size - len(busy)
        if free <= 0:
            return 0
        if time.monotonic() - self._looked > LOOK:
            self.look()
        idle = sorted(self._eligible.keys() - set(busy) - set(spent))
        rng = generator(self._seed, "asked", round_number, asked)
        chosen = sorted(rng.choice(idle, size=min(free, len(idle)), replace=False).tolist()) if idle else []
        if chosen:
            self._send(content(), round_number, chosen)
        return len(chosen)

    def answer(self) -> Answer | None:
        """The next answer, each once; None if none came in a moment."""
        if not self._answers:
            self._collect()
        if not self._answers:
            time.sleep(POLL)
            return None
        return self._answers.popleft()

    def bench(self, node: int) -> None:
        """Leave a phone out until it says again who it is."""
        self._roster.bench([node])
        self._looked = float("-inf")  # it is asked so at once

    def rest(self, node: int) -> None:
        """Leave a phone in peace for a while: its answer was a no."""
        self._roster.rest([node])
        self._looked = float("-inf")

    def _send(self, content: RecordDict, round_number: int, phones: Sequence[int]) -> None:
        until = time.monotonic() + self._deadline
        errands = [Errand(phone, self._eligible[phone], round_number, until) for phone in phones]
        messages = [
            Message(content, errand.node, MessageType.TRAIN, ttl=self._deadline, group_id=str(round_number))
            for errand in errands
        ]
        for errand, key in zip(errands, self._grid.push_messages(messages), strict=True):
            if key:
                self._errands[key] = errand
            else:  # it is gone
                self._answers.append((errand, None))

    def _collect(self) -> None:
        for reply in self._grid.pull_messages(list(self._errands)):
            errand = self._errands.pop(reply.metadata.reply_to_message_id, None)
            if errand is not None:
                self._answers.append((errand, reply))
        now = time.monotonic()
        for key in [key for key, errand in self._errands.items() if now > errand.until]:
            self._answers.append((self._errands.pop(key), None))

"""Looks between rounds: how long they take, how often they come, and what they leave alone."""

from collections.abc import Callable
from dataclasses import dataclass, field

from pocketfed.mobile_client.looks import BRIEF, EVERY, IdleLooks, look_briefly


@dataclass
class Folder:
    """Files that each take a second to decode; a policy that turns after so many; a clock.

    Attributes:
        files: not yet decoded.
        allowed: that may be decoded before the policy turns.
        looks: when the folder was listed.
    """

    files: int
    allowed: int = 1000
    now: float = 0.0
    looks: list[float] = field(default_factory=list)

    def scan(self, between: Callable[[], None], /) -> None:
        self.looks.append(self.now)
        self.now += 10  # listing takes long, too
        while self.files:
            between()
            self.files, self.allowed, self.now = self.files - 1, self.allowed - 1, self.now + 1

    def refusal(self) -> str | None:
        return None if self.allowed else "in use"

    def monotonic(self) -> float:
        return self.now


def test_a_brief_look_ends_when_its_time_is_over_and_gets_further_each_time() -> None:
    folder = Folder(8)
    assert look_briefly(folder.scan, folder.refusal, BRIEF, folder.monotonic)
    assert folder.files == 3
    assert not look_briefly(folder.scan, folder.refusal, BRIEF, folder.monotonic)
    assert folder.files == 0


def test_a_brief_look_decodes_nothing_more_when_the_policy_turns() -> None:
    folder = Folder(8, allowed=2)
    assert not look_briefly(folder.scan, folder.refusal, BRIEF, folder.monotonic)
    assert folder.files == 6
    assert not look_briefly(folder.scan, folder.refusal, BRIEF, folder.monotonic)
    assert folder.files == 6


def test_an_idle_phone_looks_once_a_minute_and_at_once_while_there_is_more() -> None:
    folder = Folder(8)
    look = IdleLooks(folder.scan, folder.refusal, folder.monotonic)
    for _ in range(3):
        look()
    assert folder.looks == [0, 15]
    folder.now = 28 + EVERY - 1
    look()
    assert len(folder.looks) == 2
    folder.now += 1
    look()
    assert len(folder.looks) == 3

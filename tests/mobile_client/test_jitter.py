"""Waits of phones: by chance, and by nobody's seed."""

import random

from pocketfed.mobile_client.connection import Retry
from pocketfed.mobile_client.flower.agent import Pace
from pocketfed.mobile_client.jitter import jitter


def test_numbers_lie_between_the_two() -> None:
    assert all(2.0 <= jitter(2.0, 2.5) <= 2.5 for _ in range(1000))


def test_waits_neither_follow_a_seed_nor_use_it_up() -> None:
    drawn = []
    kept = random.getstate()
    try:
        for _ in range(2):
            random.seed(0)
            before = random.getstate()
            drawn.append({wait(3) for wait in (Retry().wait, Pace().wait) for _ in range(20)})
            assert random.getstate() == before
    finally:
        random.setstate(kept)
    assert drawn[0].isdisjoint(drawn[1])

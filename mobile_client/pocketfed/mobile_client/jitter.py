"""Chance in waits, so that phones that failed together do not come back together.

It is the system's and not `random`'s: whoever seeds that one, to repeat a run, would have all phones wait alike, and a
wait in the background would change what is drawn in the foreground.
"""

from random import SystemRandom

_SYSTEM = SystemRandom()


def jitter(least: float, most: float) -> float:
    """A number between the two, another each time."""
    return _SYSTEM.uniform(least, most)

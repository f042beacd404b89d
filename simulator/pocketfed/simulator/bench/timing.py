"""Timing several functions in turn, so that whatever slows the machine slows all of them."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence

WARM_UP = 3
"""Turns that are not counted: the first ones allocate."""


def interleaved(functions: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Milliseconds of every counted call, by name; in each round every function is called once."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    for turn in range(WARM_UP + rounds):
        for name, function in functions.items():
            began = time.perf_counter()
            function()
            elapsed = 1e3 * (time.perf_counter() - began)
            if turn >= WARM_UP:
                times[name].append(elapsed)
    return times


def summary(times: Sequence[float]) -> dict[str, float]:
    """Median and 95th percentile (nearest rank) of some milliseconds."""
    ranked = sorted(times)
    return {
        "median_ms": statistics.median(ranked),
        "p95_ms": ranked[min(len(ranked) - 1, round(0.95 * (len(ranked) - 1)))],
    }

"""How many threads a program runs fastest on, found by trying.

More is often slower: a small network's step is hundreds of short operators, and each of them would wait for all
threads to begin and to end. Results do not depend on the number, to the last bit.
"""

import statistics
import time
from collections.abc import Sequence

import numpy as np

from pocketfed.core.hyper import Hyper
from pocketfed.core.program_spec import ProgramSpec
from pocketfed.mobile_client.runtime import Array, ExecutorchRuntime

TURNS = 5
"""Steps per candidate that count; the first ones, which allocate, do not."""

WARM_UP = 2


def fastest_threads(runtime: ExecutorchRuntime, spec: ProgramSpec, candidates: Sequence[int]) -> int:
    """The candidate with the smallest median of the slowest modality's step; the smaller one of equals.

    The runtime is left with the winner. Takes a few seconds for a network of half a million weights.
    """
    medians: dict[int, float] = {}
    for count in sorted(set(candidates)):
        runtime.use_threads(count)
        medians[count] = max(_median(runtime, *_blank_step(spec, i)) for i in range(len(spec.inputs)))
    winner = min(medians, key=lambda count: (medians[count], count))
    runtime.use_threads(winner)
    return winner


def _median(runtime: ExecutorchRuntime, method: str, inputs: Sequence[Array]) -> float:
    times = []
    for _ in range(WARM_UP + TURNS):
        began = time.perf_counter()
        runtime.run(method, inputs)
        times.append(time.perf_counter() - began)
    return statistics.median(times[WARM_UP:])


def _blank_step(spec: ProgramSpec, index: int) -> tuple[str, list[Array]]:
    """The step of one modality and inputs for it, without captures' content: it costs the same."""
    modality, wanted = list(spec.inputs.items())[index]
    method, size = spec.step([modality])
    vectors = [np.zeros(length, dtype=np.float32) for length in (spec.weights, spec.state, spec.weights)]
    captures = np.zeros((size, *wanted.shape), dtype=wanted.dtype)
    noise = np.full((size, 2, wanted.noise), 0.5, dtype=np.float32)
    return method, [*vectors, captures, noise, Hyper().vector([size])]

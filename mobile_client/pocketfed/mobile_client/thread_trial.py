"""How long a program's steps take on some number of threads: python -m pocketfed.mobile_client.thread_trial

A process of its own for each number: ExecuTorch's threads are those of all programs of a process, and one that runs
while their number changes never ends. It reads a `Trial` as JSON from standard input and prints the seconds.
"""

import json
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from pocketfed.core.hyper import Hyper
from pocketfed.core.program_spec import ProgramSpec
from pocketfed.mobile_client.runtime import Array, ExecutorchRuntime, Runtime

TURNS = 5
"""Steps that count; the first ones, which allocate, do not."""

WARM_UP = 2


@dataclass(frozen=True)
class Step:
    """A method, and captures that it takes.

    Attributes:
        method: its name.
        captures: shape, with the batch in front.
        dtype: of the captures.
        noise: shape of the random numbers.
    """

    method: str
    captures: tuple[int, ...]
    dtype: str
    noise: tuple[int, ...]


@dataclass(frozen=True)
class Trial:
    """What is tried.

    Attributes:
        program: path of a `.pte`.
        threads: to run it on.
        weights: scalars of the weight vector.
        state: scalars of the optimiser's state.
        steps: one for each modality.
    """

    program: str
    threads: int
    weights: int
    state: int
    steps: Sequence[Step]


def trial_of(program: Path, spec: ProgramSpec, threads: int) -> Trial:
    """The trial of every modality's step."""
    steps = []
    for modality, wanted in spec.inputs.items():
        method, size = spec.step([modality])
        steps.append(Step(method, (size, *wanted.shape), wanted.dtype, (size, 2, wanted.noise)))
    return Trial(str(program), threads, spec.weights, spec.state, steps)


def slowest_step(runtime: Runtime, trial: Trial) -> float:
    """Seconds of the slowest step, the median of some turns."""
    return max(_median(runtime, step.method, blank(trial, step)) for step in trial.steps)


def blank(trial: Trial, step: Step) -> list[Array]:
    """Inputs without content; they cost the same."""
    vectors = [np.zeros(length, dtype=np.float32) for length in (trial.weights, trial.state, trial.weights)]
    captures = np.zeros(step.captures, dtype=step.dtype)
    noise = np.full(step.noise, 0.5, dtype=np.float32)
    return [*vectors, captures, noise, Hyper().vector([step.captures[0]])]


def _median(runtime: Runtime, method: str, inputs: Sequence[Array]) -> float:
    times = []
    for _ in range(WARM_UP + TURNS):
        began = time.perf_counter()
        runtime.run(method, inputs)
        times.append(time.perf_counter() - began)
    return statistics.median(times[WARM_UP:])


def to_json(trial: Trial) -> str:
    """What this module's process reads."""
    return json.dumps(asdict(trial))


def from_json(text: str) -> Trial:
    """What `to_json` wrote."""
    read = json.loads(text)
    steps = [
        Step(step["method"], tuple(step["captures"]), step["dtype"], tuple(step["noise"]))
        for step in read.pop("steps")
    ]
    return Trial(**read, steps=steps)


if __name__ == "__main__":
    wanted = from_json(sys.stdin.read())
    loaded = ExecutorchRuntime(Path(wanted.program).read_bytes(), wanted.threads)
    print(slowest_step(loaded, wanted))

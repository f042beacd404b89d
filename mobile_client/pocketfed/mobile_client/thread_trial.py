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

from pocketfed.core.program_spec import ProgramSpec, read_spec
from pocketfed.mobile_client.blank_step import blank_step
from pocketfed.mobile_client.runtime import Array, ExecutorchRuntime, Runtime

TURNS = 5
"""Steps that count; the first ones, which allocate, do not."""

WARM_UP = 2


@dataclass(frozen=True)
class Trial:
    """What is tried: a program, its path and its spec, on some number of threads."""

    program: str
    spec: ProgramSpec
    threads: int


def slowest_step(runtime: Runtime, spec: ProgramSpec) -> float:
    """Seconds of the slowest modality's step, the median of some turns."""
    return max(_median(runtime, *blank_step(spec, [modality])) for modality in spec.inputs)


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
    return Trial(read["program"], read_spec(read["spec"]), read["threads"])


if __name__ == "__main__":
    wanted = from_json(sys.stdin.read())
    loaded = ExecutorchRuntime(Path(wanted.program).read_bytes(), wanted.threads)
    print(slowest_step(loaded, wanted.spec))

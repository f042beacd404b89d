"""A child process of the benchmark: holds one contest and prints its figures as one line of JSON.

python -m pocketfed.simulator.bench.child WORK_FOLDER CONTEST
"""

import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from pocketfed.core.errors import PeerError
from pocketfed.core.learning_step import Method, embed_method, methods
from pocketfed.core.modality import Modality
from pocketfed.mobile_client.runtime import Array, ExecutorchRuntime, Runtime, TorchRuntime, import_runtime
from pocketfed.simulator.bench.agreement import agree, relative
from pocketfed.simulator.bench.contest import Contest
from pocketfed.simulator.bench.memory import growth_apart
from pocketfed.simulator.bench.peers import PEERS, Workload, check_losses
from pocketfed.simulator.bench.subject import (
    GENTLE,
    Subject,
    ViewsLoss,
    captures_of,
    inputs_of,
    load_subject,
    views_method,
    views_of,
)
from pocketfed.simulator.bench.timing import interleaved, summary

STEPS = 10
"""Steps over which the program's weights are compared with eager's."""

MEMORY_CALLS = 3


def main() -> None:
    """Entry point of the child process."""
    folder, contest = Path(sys.argv[1]), Contest.from_json(sys.argv[2])
    torch.set_num_threads(1)  # memory is measured in copies of this process, which must have no other thread
    import_runtime()  # its code is no part of what is measured
    subject = load_subject(folder)
    hold = _peer if contest.kind == "peer" else _contest
    print(json.dumps(hold(folder, contest, subject)))


def _contest(folder: Path, contest: Contest, subject: Subject) -> dict[str, Any]:
    method, inputs = _problem(contest, subject)
    resident = {
        "executorch": growth_apart(
            lambda: _repeat(contest, lambda: _program(folder, contest), contest.method, _own(contest, inputs))
        ),
        "eager": growth_apart(lambda: _repeat(contest, lambda: TorchRuntime([method]), method.name, inputs)),
    }
    torch.set_num_threads(contest.threads)
    began = time.perf_counter()
    program = _program(folder, contest)
    program.run(contest.method, _own(contest, inputs))
    loaded = 1e3 * (time.perf_counter() - began)
    eager: Runtime = TorchRuntime([method])
    times = interleaved(
        {
            "executorch": lambda: program.run(contest.method, _own(contest, inputs)),
            "eager": lambda: eager.run(method.name, inputs),
        },
        contest.rounds,
    )
    result: dict[str, Any] = {
        name: summary(values) | {"resident_bytes": resident[name]} for name, values in times.items()
    }
    result["load_ms"] = max(0.0, loaded - result["executorch"]["median_ms"])
    if contest.method.startswith("step"):
        verdict = agree(program, eager, method.name, inputs, subject.task.layout.trained, STEPS)
        return result | {
            "loss_error": verdict.program.loss,
            "weights_error": verdict.program.weights,
            "nudged_error": verdict.nudged.weights,
        }
    ours, theirs = program.run(contest.method, _own(contest, inputs))[0], eager.run(method.name, inputs)[0]
    return result | {"error": relative(ours, theirs)}


def _peer(folder: Path, contest: Contest, subject: Subject) -> dict[str, Any]:
    modality = Modality(contest.method.removeprefix("views_"))
    peer = PEERS[contest.peer]
    workload = Workload(
        ViewsLoss(subject),
        views_of(subject, modality),
        GENTLE.learning_rate,
        GENTLE.momentum,
        GENTLE.weight_decay,
        contest.threads,
    )
    try:
        check_losses(peer.build(workload), workload)
        trainer = peer.build(workload)
    except PeerError as error:
        return {"refused": str(error)}
    torch.set_num_threads(contest.threads)
    method = views_method(subject, modality)
    inputs = [tensor.numpy() for tensor in method.example]
    program, eager = _program(folder, contest), TorchRuntime([method])
    contestants: dict[str, Callable[[], object]] = {
        "executorch": lambda: program.run(method.name, inputs),
        "eager": lambda: eager.run(method.name, inputs),
        contest.peer: trainer.step,
    }
    return {name: summary(times) for name, times in interleaved(contestants, contest.rounds).items()}


def _repeat(contest: Contest, load: Callable[[], Runtime], method: str, inputs: Sequence[Array]) -> None:
    torch.set_num_threads(contest.threads)
    runtime = load()
    for _ in range(MEMORY_CALLS):
        runtime.run(method, inputs)


def _problem(contest: Contest, subject: Subject) -> tuple[Method, list[Array]]:
    """The eager method and its inputs."""
    if contest.kind == "inference":
        modality = Modality(contest.method.removeprefix("embed_"))
        captures = captures_of(subject, modality, contest.batch)
        return embed_method(subject.task, modality), [subject.weights, captures]
    method = next(m for m in methods(subject.task) if m.name == contest.method)
    return method, inputs_of(subject, method)


def _own(contest: Contest, inputs: Sequence[Array]) -> list[Array]:
    """What the program takes: an inference program has its weights inside."""
    return list(inputs[1:] if contest.kind == "inference" else inputs)


def _program(folder: Path, contest: Contest) -> Runtime:
    return ExecutorchRuntime((folder / contest.program).read_bytes(), contest.threads)


if __name__ == "__main__":
    main()

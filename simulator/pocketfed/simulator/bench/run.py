"""A benchmark from its subject to its figures. Every contest runs in a fresh process of its own."""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from pocketfed.core.errors import BenchmarkError
from pocketfed.core.processors import cores
from pocketfed.export.inference import export_inference
from pocketfed.export.inspection import inspect_program
from pocketfed.export.program import export_program
from pocketfed.simulator.bench.contest import Contest
from pocketfed.simulator.bench.subject import WEIGHTS, Subject, captures_of, views_method
from pocketfed.simulator.program import save_program

CALIBRATION = 128
"""Captures that an int8 program is calibrated on."""

Row = dict[str, Any]
"""Figures of one contest; docs/bench.md lists the keys."""

PATIENCE = 1800.0
"""Seconds after which a child process is given up."""


class Watcher(Protocol):
    """Whoever watches a benchmark."""

    def expect(self, contests: int) -> None:
        """How many contests there will be."""
        ...

    def phase(self, text: str) -> None:
        """Something that takes a while has begun."""
        ...

    def finished(self) -> None:
        """A contest is over."""
        ...


@dataclass(frozen=True)
class Figures:
    """What a benchmark found.

    Attributes:
        rows: one for each contest.
        slow: one line for each operator of the program that a slow kernel runs.
    """

    rows: Sequence[Row]
    slow: Sequence[str]


def benchmark(
    subject: Subject,
    threads: Sequence[int],
    peers: Sequence[str],
    inference: bool,
    rounds: int,
    processes: int,
    watcher: Watcher,
) -> Figures:
    """Export everything, then hold every contest.

    Args:
        subject: what is measured.
        threads: each contest is held at each of these numbers, those against peers at one.
        peers: names in `PEERS`.
        inference: whether programs with the weights inside are measured too.
        rounds: counted turns in a process.
        processes: fresh processes per contest.
        watcher: is told of progress.

    Raises:
        ExportError: the network cannot be exported.
        BenchmarkError: a contest failed.
    """
    with tempfile.TemporaryDirectory(prefix="pocketfed-bench-") as name:
        folder = Path(name)
        slow = prepare(folder, subject, watcher.phase)
        contests = step_contests(subject, threads, rounds)
        if inference:
            contests += inference_contests(folder, subject, threads, rounds, watcher.phase)
        contests += peer_contests(folder, subject, peers, rounds, watcher.phase)
        watcher.expect(len(contests))
        rows = []
        for contest in contests:
            watcher.phase(f"{contest.label}, {in_words(contest.threads)}")
            rows.append(measure(folder, contest, processes))
            watcher.finished()
    return Figures(rows, slow)


def in_words(threads: int) -> str:
    """`1 thread`, `2 threads`."""
    return "1 thread" if threads == 1 else f"{threads} threads"


def prepare(folder: Path, subject: Subject, tell: Callable[[str], None]) -> list[str]:
    """Write what children read: configuration, weights, and the program of steps and embeddings.

    Returns:
        One line for each operator that a slow kernel runs, if the configuration accepts any.

    Raises:
        ExportError: the task cannot be exported.
    """
    np.save(folder / WEIGHTS, subject.weights)
    tell("exporting the learning step (kept for the next run)")
    return save_program(folder, subject.config, subject.task)


def step_contests(subject: Subject, threads: Sequence[int], rounds: int) -> list[Contest]:
    """A step and an embedding of each modality, at each number of threads."""
    batch = subject.task.batch
    return [
        Contest(
            "method", f"{what} on {modality}s", f"{method}_{modality}", "program.pte", batch, count, rounds
        )
        for method, what in (("step", "learning step"), ("embed", "embedding"))
        for modality in subject.task.views
        for count in threads
    ]


def inference_contests(
    folder: Path, subject: Subject, threads: Sequence[int], rounds: int, tell: Callable[[str], None]
) -> list[Contest]:
    """Embedding one capture with the weights inside the program, in float32 and int8; exports those programs."""
    contests = []
    for modality in subject.task.views:
        for precision in ("float32", "int8"):
            tell(f"exporting inference on {modality}s in {precision}")
            captures = captures_of(subject, modality, CALIBRATION) if precision == "int8" else None
            program = export_inference(
                subject.task,
                subject.weights,
                modality,
                1,
                precision=precision,
                calibration=captures,
                allow_portable=subject.config.allow_portable,
            )
            name = f"infer_{modality}_{precision}.pte"
            (folder / name).write_bytes(program.buffer)
            label = f"inference on {modality}s, {precision}"
            method = f"embed_{modality}"
            contests += [Contest("inference", label, method, name, 1, count, 5 * rounds) for count in threads]
    return contests


def peer_contests(
    folder: Path, subject: Subject, peers: Sequence[str], rounds: int, tell: Callable[[str], None]
) -> list[Contest]:
    """Training on photos (on sounds, if there are no photos) against each peer, on one thread."""
    if not peers:
        return []
    modality = next(iter(subject.task.views))
    method = views_method(subject, modality)
    tell("exporting a step without augmentation, as peers have it")
    name = f"{method.name}.pte"
    (folder / name).write_bytes(export_program([method], subject.config.allow_portable).buffer)
    contests = []
    for peer in peers:
        turns = max(2, rounds // 5) if peer == "stock" else rounds  # seconds a step
        label = f"training on {modality}s against {peer}"
        contests.append(Contest("peer", label, method.name, name, subject.task.batch, 1, turns, peer))
    return contests


def measure(folder: Path, contest: Contest, processes: int) -> Row:
    """One contest in several fresh processes: medians over processes, ratios of times within each.

    Raises:
        BenchmarkError: a child process failed; where it is a peer's, the row says so, and the others are not lost.
    """
    try:
        results = [run_child(folder, contest) for _ in range(processes)]
    except BenchmarkError as error:
        if contest.kind != "peer":
            raise
        results = [{"refused": str(error).strip().splitlines()[-1]}]
    row: Row = {
        "label": contest.label,
        "method": contest.method,
        "threads": contest.threads,
        "batch": contest.batch,
        "rounds": contest.rounds,
        "processes": processes,
    }
    if "refused" in results[0]:
        return row | {"peer": contest.peer, "refused": results[0]["refused"]}
    row |= {key: _median(results, key) for key in results[0]}
    ratios = [result["executorch"]["median_ms"] / result["eager"]["median_ms"] for result in results]
    row |= {"ratio_to_eager": statistics.median(ratios), "ratios_to_eager": ratios}
    if contest.kind == "peer":
        theirs = [result["executorch"]["median_ms"] / result[contest.peer]["median_ms"] for result in results]
        return row | {"peer": contest.peer, "ratio_to_peer": statistics.median(theirs)}
    program = (folder / contest.program).read_bytes()
    row["program_bytes"] = len(program)
    row["arena_bytes"] = inspect_program(program)[contest.method].arena_bytes
    return row


def all_threads(asked: int | None) -> tuple[int, ...]:
    """The numbers of threads to measure at: as asked, or one and all."""
    return (asked,) if asked else tuple(sorted({1, cores()}))


CHILD = {
    # PyTorch starts no threads while modules are imported: memory is measured in copies of the process, and a copy
    # waits for ever for threads that it has not. The child asks for its number of threads later.
    "OMP_NUM_THREADS": "1",
    # Without these, glibc gives eager PyTorch's activations back after every step and takes them anew, which flatters
    # ExecuTorch.
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "-1",
}
"""Environment of the child."""


def run_child(folder: Path, contest: Contest) -> dict[str, Any]:
    """A contest in a fresh process.

    Raises:
        BenchmarkError: the process failed, or took too long.
    """
    command = [sys.executable, "-m", "pocketfed.simulator.bench.child", str(folder), contest.to_json()]
    try:
        finished = subprocess.run(
            command,
            env=os.environ | CHILD, capture_output=True, text=True, timeout=PATIENCE, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise BenchmarkError(
            f"{contest.label} took longer than {PATIENCE:.0f} s; give a smaller --batch"
        ) from error
    if finished.returncode != 0:
        raise BenchmarkError(f"{contest.label} failed:\n{finished.stderr[-2000:]}")
    result: dict[str, Any] = json.loads(finished.stdout.splitlines()[-1])
    return result


def _median(results: Sequence[Mapping[str, Any]], key: str) -> Any:
    values = [result[key] for result in results]
    if isinstance(values[0], Mapping):
        return {inner: _median(values, inner) for inner in values[0]}
    return None if values[0] is None else statistics.median(values)

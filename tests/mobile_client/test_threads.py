"""The number of threads: chosen by measurement, without a say in the results."""

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from pocketfed.core.errors import ProgramError
from pocketfed.core.learning_task import LearningTask
from pocketfed.core.modality import Modality
from pocketfed.core.program_spec import ProgramSpec, program_spec
from pocketfed.export.program import task_program
from pocketfed.mobile_client import threads
from pocketfed.mobile_client.blank_step import blank_step, try_steps
from pocketfed.mobile_client.runtime import ExecutorchRuntime
from pocketfed.mobile_client.thread_trial import Trial, from_json, slowest_step, to_json
from pocketfed.mobile_client.threads import fastest_threads, remembered_threads, seconds_in_a_process
from tests.small_network import small_network_task


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> LearningTask:
    return small_network_task(tmp_path_factory.mktemp("plugin"), batch=6)


@pytest.fixture(scope="module")
def program(task: LearningTask, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("program") / "train.pte"
    path.write_bytes(task_program(task, mixed=True))
    return path


@pytest.fixture(scope="module")
def spec(task: LearningTask) -> ProgramSpec:
    return program_spec(task, mixed=True)


RUN = """
import sys
from collections.abc import Sequence
from pathlib import Path
from safetensors.numpy import load_file, save_file
from pocketfed.mobile_client.runtime import ExecutorchRuntime
program, threads, inputs, outputs = sys.argv[1:]
given = load_file(inputs)
runtime = ExecutorchRuntime(Path(program).read_bytes(), int(threads))
found = runtime.run("step_photo", [given[str(i)] for i in range(len(given))])
save_file({str(i): array for i, array in enumerate(found)}, outputs)
"""


@pytest.mark.long
def test_results_do_not_depend_on_it(program: Path, spec: ProgramSpec, tmp_path: Path) -> None:
    """In a process for each number, like phones: a pool that is replaced later stops ExecuTorch."""
    rng = np.random.default_rng(0)
    _, (theta, state, anchor, captures, noise, hyper) = blank_step(spec, [Modality.PHOTO])
    inputs = [
        rng.normal(size=theta.shape).astype(np.float32), state, anchor,
        rng.integers(0, 256, captures.shape, dtype=np.uint8), noise, hyper,
    ]  # fmt: skip
    save_file({str(i): array for i, array in enumerate(inputs)}, tmp_path / "inputs")
    found = []
    for count in ("1", "2"):
        outputs = tmp_path / f"outputs-{count}"
        words = [str(program), count, str(tmp_path / "inputs"), str(outputs)]
        subprocess.run([sys.executable, "-c", RUN, *words], check=True, timeout=120)
        found.append(load_file(outputs))
    one, two = found
    assert np.abs(one["1"] - inputs[0]).max() > 0
    assert all(np.array_equal(one[name], two[name]) for name in one)


def test_a_trial_runs_in_a_process_of_its_own(program: Path, spec: ProgramSpec) -> None:
    trial = Trial(str(program), spec, 2)
    assert from_json(to_json(trial)) == trial
    assert 0 < seconds_in_a_process(trial) < 60


def test_a_program_that_lacks_what_its_spec_says_is_found_out(program: Path, spec: ProgramSpec) -> None:
    runtime = ExecutorchRuntime(program.read_bytes(), None)
    try_steps(runtime, spec)
    with pytest.raises(ProgramError, match="step_photo failed"):
        try_steps(runtime, replace(spec, state=spec.state + 1))
    with pytest.raises(ProgramError, match="step_smell failed"):
        runtime.run("step_smell", [])


def test_a_program_that_cannot_be_tried_is_an_error(tmp_path: Path, spec: ProgramSpec) -> None:
    (tmp_path / "train.pte").write_bytes(b"nonsense")
    with pytest.raises(ProgramError, match=r"train\.pte cannot be tried on 1 threads: .*cannot be loaded"):
        fastest_threads(tmp_path / "train.pte", spec, [1, 2])


def test_a_trial_that_never_ends_is_an_error(
    program: Path, spec: ProgramSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads, "LIMIT", 0.05)
    with pytest.raises(ProgramError, match="took longer than"):
        seconds_in_a_process(Trial(str(program), spec, 1))


def test_the_slowest_modality_counts(spec: ProgramSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that the runtime moves stands for time."""
    runtime = Clocked(spec, {"photo": 3, "sound": 4})
    monkeypatch.setattr("time.perf_counter", lambda: runtime.now)
    assert slowest_step(runtime, spec) == 4


@pytest.mark.parametrize(
    ("seconds", "winner"), [({1: 4, 2: 5}, 1), ({1: 4, 2: 3}, 2), ({1: 4, 2: 4}, 1), ({3: 4}, 3)]
)
def test_the_fastest_wins(seconds: dict[int, float], winner: int, spec: ProgramSpec) -> None:
    def tried(trial: Trial) -> float:
        return seconds[trial.threads]

    assert fastest_threads(Path("train.pte"), spec, sorted(seconds, reverse=True), tried) == winner


def test_it_is_tried_out_once_for_a_program_and_a_machine(
    spec: ProgramSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record, seconds = tmp_path / "home" / "threads", {1: 4, 2: 3, 4: 9}
    tried: list[int] = []

    def fastest(program: Path, spec: ProgramSpec, candidates: list[int]) -> int:
        tried.extend(candidates)
        return min(candidates, key=lambda count: seconds[count])

    monkeypatch.setattr(threads, "fastest_threads", fastest)

    def used(program: str, cores: int) -> tuple[int, list[int]]:
        """The number of threads, and which were tried to find it."""
        tried.clear()
        monkeypatch.setattr(threads, "cores", lambda: cores)
        return remembered_threads(record, Path("train.pte"), program, spec), list(tried)

    assert used("a", 2) == (2, [1, 2])
    assert used("a", 2) == (2, [])
    assert used("b", 2) == (2, [1, 2])
    assert used("b", 4) == (1, [1, 4])
    for damage in (b"", b"[1]", b"{}", json.dumps({"program": "b", "cores": 2, "threads": 7}).encode()):
        record.write_bytes(damage)
        assert used("b", 2) == (2, [1, 2])


class Clocked:
    """A runtime whose calls take as long as they are told to."""

    def __init__(self, spec: ProgramSpec, costs: dict[str, int]) -> None:
        self.spec, self.costs, self.now = spec, costs, 0.0

    def run(self, method: str, inputs: Sequence[NDArray[Any]]) -> tuple[NDArray[Any], ...]:
        modality = Modality(method.removeprefix("step_"))
        assert inputs[3].shape[1:] == self.spec.inputs[modality].shape
        self.now += self.costs[modality]
        return ()

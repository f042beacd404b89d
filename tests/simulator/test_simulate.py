"""Whole simulations, small ones: what they write, that they repeat, resume and survive."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from pocketfed.core.errors import CaptureError, ConfigError, RunFolderError
from pocketfed.core.hyper import Hyper
from pocketfed.core.learning_step import methods, step_name
from pocketfed.core.learning_task import LearningTask, initial_weights
from pocketfed.core.modality import Modality
from pocketfed.mobile_client.runtime import ExecutorchRuntime, TorchRuntime
from pocketfed.server.checkpoint import DAMAGED, load_checkpoint, path_of
from pocketfed.simulator import run_folder
from pocketfed.simulator.config import Config
from pocketfed.simulator.config_file import build_config, read_toml, to_toml
from pocketfed.simulator.program import load_runtime, save_program, task_of
from pocketfed.simulator.simulate import load_captures, simulate
from tests.conftest import Silent

SMALL: dict[str, Any] = {
    "rounds": 2,
    "runtime": "torch",
    "captures": {"side": 16, "seconds": 0.25, "photos_limit": 60, "sounds_limit": 60},
    "fleet": {"phones": 3, "alpha": 1.0},
    "learning": {"batch": 8, "learning_rate": 0.01},
}


def small(**changes: Any) -> Config:
    return build_config({**SMALL, **changes})


def weights_of(folder: Path, round_number: int = 2) -> NDArray[np.float32]:
    return load_checkpoint(path_of(folder / "checkpoints", round_number)).weights


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of two rounds."""
    folder = tmp_path_factory.mktemp("runs") / "finished"
    simulate(small(), folder, Silent())
    return folder


def test_the_run_folder_holds_what_is_promised(finished: Path) -> None:
    assert sorted(p.name for p in finished.iterdir()) == [
        "checkpoints",
        "config.toml",
        "metrics.jsonl",
        "report.html",
        "run-id",
    ]
    records = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    assert [r["round"] for r in records] == [0, 1, 2]
    assert records[0]["loss"] == {}
    size = weights_of(finished).nbytes
    for record in records[1:]:
        assert set(record["loss"]) == {"photo", "sound"}
        assert (record["phones"], record["failures"]) == (3, 0)
        assert record["bytes_down"] == record["bytes_up"] == 3 * size
        assert record["seconds"] > 0
    for record in (records[0], records[2]):
        assert all(0 <= record[measure][m] <= 1 for measure in ("knn", "probe") for m in ("photo", "sound"))
    assert "knn" not in records[1]
    checkpoints = {path.stem for path in (finished / "checkpoints").iterdir()}
    best = {f"best-{m}-{measure}" for m in ("photo", "sound") for measure in ("knn", "probe")}
    assert checkpoints == {"round-00000", "round-00001", "round-00002"} | best
    assert "<svg" in (finished / "report.html").read_text()
    assert not np.array_equal(weights_of(finished, 0), weights_of(finished, 1))


def test_the_same_seed_gives_the_same_weights_and_another_does_not(finished: Path, tmp_path: Path) -> None:
    simulate(small(workers=1), tmp_path / "same", Silent())
    assert np.array_equal(weights_of(finished), weights_of(tmp_path / "same"))
    assert (tmp_path / "same" / "run-id").read_bytes() != (finished / "run-id").read_bytes()
    simulate(small(seed=1, rounds=1), tmp_path / "other", Silent())
    assert not np.array_equal(weights_of(finished, 1), weights_of(tmp_path / "other", 1))


def test_resuming_after_any_round_gives_the_same_run_bit_for_bit(finished: Path, tmp_path: Path) -> None:
    whole = [r for r in run_folder.read_metrics(run_folder.RunFolder(finished), 9)]
    for last in (0, 1):
        copy = tmp_path / f"stopped-{last}"
        shutil.copytree(finished, copy)
        for number in range(last + 1, 3):
            path_of(copy / "checkpoints", number).unlink()
        damaged = path_of(copy / "checkpoints", 3)
        damaged.write_bytes(b"a round that was not to be")
        if (
            last == 1
        ):  # stopped between a checkpoint and its line in the metrics, in the middle of another line
            lines = (copy / "metrics.jsonl").read_text().splitlines(keepends=True)
            (copy / "metrics.jsonl").write_text(lines[0] + lines[1][:20])
        simulate(small(), copy, Silent(), resume=True)
        assert (copy / "run-id").read_bytes() == (finished / "run-id").read_bytes()
        assert np.array_equal(weights_of(copy), weights_of(finished))
        assert [damaged.exists(), damaged.with_name(damaged.name + DAMAGED).exists()] == [False, True]
        again = run_folder.read_metrics(run_folder.RunFolder(copy), 9)
        clock = {"seconds": 0, "phases": {}}
        assert [{**r, **clock} for r in again] == [{**r, **clock} for r in whole]


@pytest.mark.long
@pytest.mark.parametrize("rule", ["fedadam", "fedavgm"])
def test_what_a_server_optimiser_remembers_is_resumed_bit_for_bit(rule: str, tmp_path: Path) -> None:
    captures = {**SMALL["captures"], "photos_limit": 24, "sounds_limit": 24}
    fleet = {**SMALL["fleet"], "phones": 2}
    config = small(aggregator=rule, evaluate_every=0, workers=1, captures=captures, fleet=fleet)
    simulate(config, tmp_path / "whole", Silent())
    shutil.copytree(tmp_path / "whole", tmp_path / "stopped")
    path_of(tmp_path / "stopped" / "checkpoints", 2).unlink()
    simulate(config, tmp_path / "stopped", Silent(), resume=True)
    whole, resumed = (
        load_checkpoint(path_of(tmp_path / name / "checkpoints", 2)) for name in ("whole", "stopped")
    )
    assert np.array_equal(whole.weights, resumed.weights)
    assert whole.memory.keys() == resumed.memory.keys() != set()
    for name, moment in whole.memory.items():
        assert np.any(moment)
        assert np.array_equal(moment, resumed.memory[name])


def test_resuming_a_finished_run_only_writes_the_report_again(finished: Path) -> None:
    before, page = weights_of(finished), (finished / "report.html").read_bytes()
    (finished / "report.html").unlink()
    watcher = Silent()
    simulate(small(), finished, watcher, resume=True)
    assert watcher.records == []
    assert np.array_equal(before, weights_of(finished))
    assert (finished / "report.html").read_bytes() == page


@pytest.mark.long
def test_ctrl_c_leaves_a_run_that_can_be_resumed(finished: Path, tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text(to_toml(small(rounds=40)))
    command = [sys.executable, "-c", "from pocketfed.simulator.cli import main; main()", "simulate"]
    run = tmp_path / "run"
    process = subprocess.Popen(
        [*command, "--config", str(tmp_path / "c.toml"), "--out", str(run)], stdout=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while not path_of(run / "checkpoints", 1).exists():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to every process of the group
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert f"--resume {run}" in output.replace("\n", "")
    assert not list(run.glob(".work-*"))
    done = run_folder.reopen(run)[2]
    assert done is not None
    assert 1 <= done.round < 40


def test_mixed_batches_photos_only_and_group_partition_run(tmp_path: Path) -> None:
    watcher = Silent()
    fleet = {
        "phones": 3,
        "photo_partition": "group",
        "sound_partition": "group",
        "photos_only": 0,
        "sounds_only": 0,
        "participation": 0.5,
    }
    learning = {**SMALL["learning"], "mode": "mixed"}
    simulate(small(fleet=fleet, learning=learning, aggregator="ldawa"), tmp_path / "mixed", watcher)
    assert [r["phones"] for r in watcher.records] == [0, 2, 2]
    assert watcher.records[1]["loss"]["photo"] == watcher.records[1]["loss"]["sound"]


def test_unlabelled_photos_alone_are_enough(tmp_path: Path) -> None:
    from PIL import Image

    rng = np.random.default_rng(0)
    (tmp_path / "album").mkdir()
    for i in range(40):
        Image.fromarray(rng.integers(0, 256, (20, 24, 3), dtype=np.uint8)).save(
            tmp_path / "album" / f"{i}.png"
        )
    watcher = Silent()
    captures = {**SMALL["captures"], "photos": str(tmp_path / "album")}
    simulate(small(captures=captures, rounds=1), tmp_path / "run", watcher)
    assert set(watcher.records[1]["loss"]) == {"photo"}
    assert watcher.records[1]["knn"] == {}
    assert (tmp_path / "run" / "report.html").exists()


def test_what_cannot_run_is_said_before_anything_is_written(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="is not empty; go on with --resume"):
        simulate(small(), finished, Silent())
    with pytest.raises(ConfigError, match="20 photos to train on are fewer than a batch of 32"):
        load_captures(small(captures={**SMALL["captures"], "photos_limit": 20}, learning={"batch": 32}))
    with pytest.raises(ConfigError, match="too few for 40 phones"):
        simulate(small(fleet={"phones": 50}), tmp_path / "none", Silent())
    assert not (tmp_path / "none").exists()


def test_a_foreign_run_folder_is_refused(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="no run folder"):
        run_folder.reopen(tmp_path)
    text = (finished / "config.toml").read_text()
    (tmp_path / "config.toml").write_text(text.replace("format = 1", "format = 7"))
    with pytest.raises(RunFolderError, match="another version of pocketfed"):
        run_folder.reopen(tmp_path)
    (tmp_path / "config.toml").write_text(text.replace("[fleet]", "[fleet]\nnonsense = 1"))
    with pytest.raises(RunFolderError, match="nonsense"):
        run_folder.reopen(tmp_path)


MIXED: dict[str, Any] = {
    "runtime": "executorch",
    "learning": {**SMALL["learning"], "mode": "mixed"},
    "fleet": {**SMALL["fleet"], "photos_only": 0.34, "sounds_only": 0.33},
}
"""One phone with photos only, one with sounds only, one with both: every step of a program is used."""

STEPS = [(Modality.PHOTO,), (Modality.SOUND,), (Modality.PHOTO, Modality.SOUND)]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the exported program of the small task, mixed step and all."""
    folder = tmp_path_factory.mktemp("program")
    config = small(**MIXED)
    save_program(folder, config, task_of(config, list(Modality)))
    return folder


def inputs_of(
    task: LearningTask, config: Config, modalities: Sequence[Modality], steps: int
) -> list[list[Any]]:
    """Captures, noise and hyper-parameters of each step, from the embedded captures."""
    splits, rng, every = load_captures(config), np.random.default_rng(1), []
    size = config.learning.batch // len(modalities)
    for step in range(steps):
        inputs: list[Any] = []
        for modality in modalities:
            items = splits[modality].train.items
            noise = rng.random((size, 2, len(task.views[modality].noise)), dtype=np.float32)
            inputs += [items[rng.permutation(len(items))[:size]], noise]
        counts = [size - step % 2] * len(modalities)  # full batches and batches that are not
        every.append([*inputs, Hyper(0.01, 0.9, 5e-4, 0.01, 0.3).vector(counts)])
    return every


class TestExecutorch:
    """The exported program against its eager twin; one export serves all of these."""

    @pytest.mark.parametrize("modalities", STEPS, ids=step_name)
    def test_equals_eager_at_every_one_of_ten_steps(
        self, program: Path, modalities: Sequence[Modality]
    ) -> None:
        config = small(**MIXED)
        task = task_of(config, list(Modality))
        spec, exported = load_runtime(program)
        eager = TorchRuntime(methods(task, mixed=True))
        assert isinstance(exported, ExecutorchRuntime)
        theta = initial_weights(task, 0)
        ours = theirs = [theta, np.zeros(spec.state, dtype=np.float32)]
        for inputs in inputs_of(task, config, modalities, 10):
            loss, *ours = exported.run(step_name(modalities), [*ours, theta, *inputs])
            oracle, *theirs = eager.run(step_name(modalities), [*theirs, theta, *inputs])
            assert abs(float(loss) - float(oracle)) < 1e-5
            assert np.linalg.norm(ours[0] - theirs[0]) < 1e-5 * np.linalg.norm(theirs[0])
        assert np.linalg.norm(ours[0] - theta) > 1e-3 * np.linalg.norm(theta)

    @pytest.mark.parametrize("modality", list(Modality))
    def test_embeddings_equal_eager(self, program: Path, modality: Modality) -> None:
        config = small(**MIXED)
        task = task_of(config, list(Modality))
        theta = initial_weights(task, 3)
        captures = inputs_of(task, config, [modality], 1)[0][0]
        (ours,) = load_runtime(program)[1].run(f"embed_{modality}", [theta, captures])
        (theirs,) = TorchRuntime(methods(task)).run(f"embed_{modality}", [theta, captures])
        assert np.allclose(ours, theirs, atol=1e-5 * np.abs(theirs).max())

    def test_loss_curves_of_three_rounds_agree(self, program: Path, tmp_path: Path) -> None:
        curves = []
        for runtime in ("executorch", "torch"):
            watcher = Silent()
            simulate(small(**{**MIXED, "runtime": runtime, "rounds": 3}), tmp_path / runtime, watcher)
            curves.append([record["loss"] for record in watcher.records[1:]])
        for ours, theirs in zip(*curves, strict=True):
            assert set(ours) == {"photo", "sound"}
            assert ours == pytest.approx(theirs, abs=1e-3)

    @pytest.mark.long
    def test_the_same_seed_gives_the_same_weights(self, program: Path, tmp_path: Path) -> None:
        for name in ("first", "second"):
            simulate(small(**{**MIXED, "rounds": 1}), tmp_path / name, Silent())
        assert np.array_equal(weights_of(tmp_path / "first", 1), weights_of(tmp_path / "second", 1))


@pytest.mark.parametrize("seconds", [0.25, 0.28, 0.55, 1.1])
def test_views_and_captures_agree_on_the_length_of_a_window(seconds: float) -> None:
    config = small(captures={**SMALL["captures"], "seconds": seconds})
    view = task_of(config, [Modality.SOUND]).views[Modality.SOUND]
    assert load_captures(config)[Modality.SOUND].train.items.shape[1:] == view.capture_shape
    pcm = torch.zeros(1, *view.capture_shape)
    assert torch.isfinite(view.plain(view.front(pcm))).all()


def test_relative_paths_survive_a_resume(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.toml").write_text('[captures]\nphotos = "album"\n')
    config = build_config(read_toml(Path("c.toml")))
    folder = run_folder.create(Path("runs/x"), config)
    assert run_folder.reopen(folder.path)[1].captures.photos == tmp_path / "album"


def test_both_bad_paths_are_reported_at_once(tmp_path: Path) -> None:
    captures = {"photos": str(tmp_path / "nowhere"), "sounds": str(tmp_path / "nothing")}
    with pytest.raises(CaptureError, match=r"nowhere(.|\n)*nothing"):
        load_captures(small(captures=captures))

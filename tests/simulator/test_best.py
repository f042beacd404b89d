"""FASSL's bookkeeping: per task the best so far, on a script of accuracies, across kills, and as weights to go on with."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pocketfed.core.errors import RunFolderError
from pocketfed.server.checkpoint import Checkpoint, load_checkpoint, path_of, save_checkpoint
from pocketfed.simulator import run_folder
from pocketfed.simulator.bench.choose import choose_subject
from pocketfed.simulator.best import Best, best_path, best_so_far, keep_best
from pocketfed.simulator.bundles import open_bundle
from pocketfed.simulator.display import summary_table
from pocketfed.simulator.simulate import simulate
from tests.conftest import Silent
from tests.server.rule_cases import backbone
from tests.simulator.test_simulate import small

SCRIPT: list[dict[str, Any]] = [
    {"round": 0, "knn": {"sound": 0.9, "photo": 0.1}, "probe": {"sound": 0.9}},
    {"round": 1, "knn": {"sound": 0.5, "photo": 0.2}, "probe": {"sound": 0.6}},
    {"round": 2},
    {"round": 3, "knn": {"sound": 0.7, "photo": 0.2}, "probe": {"sound": 0.5}},
    {"round": 4, "knn": {"sound": 0.6, "photo": float("nan")}, "probe": {"sound": 0.6}},
]


def kept(folder: Path) -> Mapping[str, int]:
    return {path.stem.removeprefix("best-"): load_checkpoint(path).round for path in folder.glob("best-*")}


def test_each_task_keeps_its_own_round_ties_the_earliest_and_the_untrained_encoder_takes_no_part() -> None:
    assert best_so_far(SCRIPT) == {
        "sound-knn": Best(0.7, 3),
        "photo-knn": Best(0.2, 1),
        "sound-probe": Best(0.6, 1),
    }


def test_files_follow_the_records_after_every_round_and_after_damage(tmp_path: Path) -> None:
    layout = backbone(2)
    seen = []
    for record in SCRIPT:
        number = record["round"]
        weights = np.full(2, number, np.float32)
        save_checkpoint(tmp_path, Checkpoint(number, 0, weights, layout, {"round": number}))
        keep_best(tmp_path, SCRIPT[: number + 1])
        seen.append(kept(tmp_path).get("sound-knn"))
    assert seen == [None, 1, 1, 3, 3]
    final = {"sound-knn": 3, "photo-knn": 1, "sound-probe": 1}
    assert kept(tmp_path) == final
    assert load_checkpoint(best_path(tmp_path, "sound-knn")).weights.tolist() == [3, 3]
    best_path(tmp_path, "sound-knn").write_bytes(b"damaged")
    shutil.copy(path_of(tmp_path, 4), best_path(tmp_path, "photo-knn"))  # of a round that was lost
    shutil.copy(path_of(tmp_path, 4), best_path(tmp_path, "smell-knn"))
    keep_best(tmp_path, SCRIPT)
    assert kept(tmp_path) == final
    path_of(tmp_path, 3).unlink()  # as where only the last checkpoints are kept
    keep_best(tmp_path, SCRIPT)
    assert kept(tmp_path) == final


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose every round is evaluated."""
    folder = tmp_path_factory.mktemp("runs") / "best"
    simulate(small(rounds=3, evaluate_every=1, workers=1), folder, Silent())
    return folder


def test_a_run_keeps_them_and_says_so(run: Path, tmp_path: Path) -> None:
    records = run_folder.read_metrics(run_folder.RunFolder(run), 3)
    best = best_so_far(records)
    assert set(best) == {f"{m}-{measure}" for m in ("photo", "sound") for measure in ("knn", "probe")}
    assert kept(run / "checkpoints") == {task: found.round for task, found in best.items()}
    assert f"round {best['sound-knn'].round}" in (run / "report.html").read_text()
    cells = [cell for column in summary_table(records).columns for cell in column.cells]
    assert f"{best['photo-knn'].accuracy:.1%} ({best['photo-knn'].round})" in cells


def test_a_resumed_run_ends_with_the_same(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "stopped"
    shutil.copytree(run, copy)
    lines = (copy / "metrics.jsonl").read_text().splitlines(keepends=True)
    (copy / "metrics.jsonl").write_text("".join(lines[:2]))
    for number in (2, 3):
        path_of(copy / "checkpoints", number).unlink()
    for path in (copy / "checkpoints").glob("best-*"):
        path.unlink()  # killed before they were written
    simulate(small(), copy, Silent(), resume=True)
    assert kept(copy / "checkpoints") == kept(run / "checkpoints")
    for path in (run / "checkpoints").glob("best-*"):
        mended = load_checkpoint(copy / "checkpoints" / path.name)
        assert np.array_equal(mended.weights, load_checkpoint(path).weights)


def test_its_path_names_it_wherever_a_run_folder_may_stand(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = best_path(run / "checkpoints", "sound-knn")
    wanted = load_checkpoint(path).weights
    made: list[Any] = []
    monkeypatch.setattr("pocketfed.simulator.bundles.make_bundle", lambda *given: made.append(given))
    open_bundle(path, tmp_path)
    assert np.array_equal(made[0][1], wanted)
    subject = choose_subject(None, path, [], [], None, None, False)
    assert np.array_equal(subject.weights, wanted)
    open_bundle(run, tmp_path)
    assert np.array_equal(made[1][1], load_checkpoint(path_of(run / "checkpoints", 3)).weights)
    with pytest.raises(RunFolderError, match="cannot be read"):
        open_bundle(run / "checkpoints" / "best-smell-knn.safetensors", tmp_path)
    stray = tmp_path / "somewhere" / "w.safetensors"
    stray.parent.mkdir()
    shutil.copy(path, stray)
    with pytest.raises(RunFolderError, match="no run folder"):
        open_bundle(stray, tmp_path)


def test_metrics_are_what_it_is_made_from(run: Path) -> None:
    for line in (run / "metrics.jsonl").read_text().splitlines():
        assert "knn" in json.loads(line)

"""The benchmark: its figures on a tiny network, its arithmetic, and what it refuses. Nothing here asserts a time."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pocketfed.core.bundle import Contents, write_bundle
from pocketfed.core.errors import BenchmarkError, BundleError
from pocketfed.core.layout import Layout
from pocketfed.core.learning_task import initial_weights
from pocketfed.core.modality import Modality
from pocketfed.core.program_spec import program_spec
from pocketfed.core.release import PROGRAM
from pocketfed.simulator.bench import run
from pocketfed.simulator.bench.choose import choose_subject
from pocketfed.simulator.bench.contest import Contest
from pocketfed.simulator.bench.machine import describe
from pocketfed.simulator.bench.memory import resident_growth
from pocketfed.simulator.bench.plot import plot
from pocketfed.simulator.bench.timing import WARM_UP, interleaved, summary
from pocketfed.simulator.config_file import build_config, to_toml
from pocketfed.simulator.program import task_of
from tests.conftest import Shown

NETWORK = '''
from torch import nn
from pocketfed.core.backbones import register

class Tiny(nn.Module):
    """One convolution."""

    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv2d(3, 8, 3, 4, 1)

    def forward(self, x):
        return nn.functional.silu(self.convolution(x)).mean((2, 3))

register("tiny", Tiny, features=8)
'''

SUMMED = '''
from torch import nn
from pocketfed.core.backbones import register

class Summed(nn.Module):
    """A running sum, which no phone's kernel does fast."""

    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv2d(3, 8, 3, 4, 1)

    def forward(self, x):
        return self.convolution(x).cumsum(2).mean((2, 3))

register("summed", Summed, features=8)
'''


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    path = tmp_path / "networks.py"
    path.write_text(NETWORK + SUMMED)
    return path


@pytest.mark.long
def test_figures_of_a_network(pocketfed: Callable[..., Shown], plugin: Path, tmp_path: Path) -> None:
    figures, picture = tmp_path / "figures.json", tmp_path / "ratios.png"
    shown = pocketfed(
        "bench", "--plugin", plugin, "--backbone", "tiny", "--modality", "photo", "--batch", 4, "--threads", 1,
        "--rounds", 2, "--processes", 1, "--against", "stock", "--json", figures, "--plot", picture,
    )  # fmt: skip
    assert (shown.code, shown.err) == (0, "")
    assert "learning step on photos" in shown.out
    written = json.loads(figures.read_text())
    assert written["machine"] == describe()
    assert written["command"].startswith("pocketfed bench --plugin")
    rows = {row["label"]: row for row in written["results"]}
    assert list(rows) == [
        "learning step on photos", "embedding on photos", "inference on photos, float32",
        "inference on photos, int8", "training on photos against stock",
    ]  # fmt: skip
    step = rows["learning step on photos"]
    assert step["ratio_to_eager"] == step["executorch"]["median_ms"] / step["eager"]["median_ms"]
    assert step["executorch"]["p95_ms"] >= step["executorch"]["median_ms"] > 0
    assert step["loss_error"] < 3e-6  # roundings, which differ from processor to processor
    assert step["weights_error"] < 1e-5
    assert step["program_bytes"] > 10_000
    assert step["arena_bytes"] > 10_000
    assert step["executorch"]["resident_bytes"] > 100_000
    assert rows["inference on photos, float32"]["error"] < 1e-5
    assert 0 < rows["inference on photos, int8"]["error"] < 0.2
    assert rows["training on photos against stock"]["ratio_to_peer"] > 0
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_what_it_refuses(pocketfed: Callable[..., Shown], plugin: Path, tmp_path: Path) -> None:
    for arguments, message in (
        (["--backbone", "nothing"], "no such backbone; choose one of: compact"),
        (["--against", "tensorrt"], "no peer 'tensorrt'; choose from: stock"),
        (["--modality", "smell"], "'smell' is neither photo nor sound"),
        (["--bundle", str(tmp_path)], "is no bundle"),
        (["--bundle", str(tmp_path), "--backbone", "compact"], "leave --backbone out"),
        (["--batch", "3"], "learning.batch: "),
    ):
        shown = pocketfed("bench", *arguments)
        assert shown.code == 2, arguments
        assert message in shown.err


def test_it_measures_what_a_bundle_holds(tmp_path: Path) -> None:
    config = build_config({"captures": {"photos": str(tmp_path / "photos"), "side": 16}})
    task = task_of(config, [Modality.PHOTO])
    spec, weights = program_spec(task, False), initial_weights(task, 5)
    contents = Contents(spec, task.layout, weights, to_toml(config), {PROGRAM: b"not measured"})
    bundle = write_bundle(tmp_path / "bundle", contents).folder
    subject = choose_subject(None, bundle, [], [], None, 8, False)
    assert (list(subject.task.views), subject.task.batch) == ([Modality.PHOTO], 8)
    assert np.array_equal(subject.weights, weights)
    text = task.layout.to_json().replace("projector.second", "projector.last")
    other = replace(spec, layout=Layout.from_json(text).digest)
    write_bundle(bundle, replace(contents, spec=other, layout=Layout.from_json(text)))
    with pytest.raises(BundleError, match="holds weights of another compact than this version builds"):
        choose_subject(None, bundle, [], [], None, None, False)
    (tmp_path / "untrained.toml").write_text(to_toml(config))
    with pytest.raises(BundleError, match="has no weights yet"):
        choose_subject(None, tmp_path / "untrained.toml", [], [], None, None, False)


@pytest.mark.long
def test_a_slow_operator_is_refused_or_listed(
    pocketfed: Callable[..., Shown], plugin: Path, tmp_path: Path
) -> None:
    arguments = [
        "--plugin", str(plugin), "--backbone", "summed", "--modality", "photo", "--batch", "4", "--threads", "1",
        "--rounds", "2", "--processes", "1", "--no-inference",
    ]  # fmt: skip
    refused = pocketfed("bench", *arguments)
    assert refused.code == 2
    assert "aten.cumsum" in refused.err
    assert "--allow-portable" in refused.err
    accepted = pocketfed("bench", *arguments, "--allow-portable")
    assert accepted.code == 0, accepted.err
    assert "slow kernel: step_photo: aten::cumsum, " in accepted.out


def test_contestants_take_turns() -> None:
    calls: list[str] = []
    times = interleaved({name: lambda name=name: calls.append(name) for name in "ab"}, rounds=4)  # type: ignore[misc]
    assert calls == ["a", "b"] * (WARM_UP + 4)
    assert {name: len(values) for name, values in times.items()} == {"a": 4, "b": 4}


def test_summaries() -> None:
    assert summary([3.0, 1.0, 2.0]) == {"median_ms": 2.0, "p95_ms": 3.0}
    assert summary([float(i) for i in range(101)]) == {"median_ms": 50.0, "p95_ms": 95.0}


def test_growth_is_the_peak_and_not_what_stays() -> None:
    growth = resident_growth(lambda: len(bytearray(64_000_000)))
    if growth is None:
        pytest.skip("this system does not tell the peak memory of a process")
    assert 60_000_000 < growth < 80_000_000
    assert (resident_growth(lambda: None) or 0) < 1_000_000


def test_a_peer_that_fails_costs_its_own_row_only(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fails(folder: Path, contest: Contest) -> dict[str, object]:
        raise BenchmarkError(
            "the process ended with 1:\nTraceback\nModuleNotFoundError: No module named 'six'"
        )

    monkeypatch.setattr(run, "run_child", fails)
    peer = Contest("peer", "training against x", "step_photo", "x.pte", 4, 1, 2, "x")
    assert run.measure(tmp_path, peer, 2)["refused"] == "ModuleNotFoundError: No module named 'six'"
    with pytest.raises(BenchmarkError):
        run.measure(tmp_path, Contest("method", "step", "step_photo", "x.pte", 4, 1, 2), 2)


def test_contests_travel_as_text() -> None:
    contest = Contest("peer", "training", "views_photo", "a.pte", 4, 1, 3, "stock")
    assert Contest.from_json(contest.to_json()) == contest


def test_plots_leave_out_who_refused(tmp_path: Path) -> None:
    row = {
        "label": "step", "threads": 1, "batch": 4, "ratio_to_eager": 0.5,
        "executorch": {"median_ms": 1.0}, "eager": {"median_ms": 2.0},
    }  # fmt: skip
    plot([row, {"label": "x", "refused": "no"}], "title", tmp_path / "plot.svg")
    assert "0.50" in (tmp_path / "plot.svg").read_text()


THREADS = """
import os, torch
def count(): return len(os.listdir("/proc/self/task"))
before = count()
import pocketfed.simulator.bench.child
print(count() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="counts threads in /proc")
def test_the_process_that_is_copied_to_measure_memory_has_started_no_threads() -> None:
    """PyTorch's threads are not in the copy, which would wait for them for ever."""
    shown = subprocess.run(
        [sys.executable, "-c", THREADS],
        env=os.environ | run.CHILD,
        capture_output=True,
        text=True,
        check=True,
    )
    assert shown.stdout.split() == ["0"]

"""Weights that lie otherwise than this version would lay them out, as many and of the same names, are never taken as they lie."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from pocketfed.core.bundle import Bundle, Contents, write_bundle
from pocketfed.core.errors import RunFolderError
from pocketfed.core.layout import Layout
from pocketfed.core.learning_task import LearningTask, initial_weights
from pocketfed.core.program_spec import program_spec
from pocketfed.core.release import PROGRAM
from pocketfed.server.checkpoint import Checkpoint, path_of, save_checkpoint
from pocketfed.simulator import bundling, run_folder, verification
from pocketfed.simulator.bundles import make_bundle, open_bundle
from pocketfed.simulator.config import Config
from pocketfed.simulator.config_file import build_config, to_toml
from pocketfed.simulator.program import recorded, task_of
from pocketfed.simulator.run_folder import RunFolder
from pocketfed.simulator.scales import found_scales
from pocketfed.simulator.server_run import open_run
from tests.bundles import release
from tests.conftest import Shown

Run = Callable[..., Shown]


@pytest.fixture(autouse=True)
def exported(monkeypatch: pytest.MonkeyPatch) -> list[NDArray[np.float32] | None]:
    """The weights that programs would be exported of."""
    exported: list[NDArray[np.float32] | None] = []

    def task_program(*arguments: object) -> bytes:
        exported.append(None)
        return b"program"

    def build(config: Config, weights: NDArray[np.float32] | None, folder: Path, *others: object) -> Bundle:
        exported.append(weights)
        return release(folder, None)

    monkeypatch.setattr("pocketfed.export.program.task_program", task_program)
    monkeypatch.setattr(bundling, "build_bundle", build)
    monkeypatch.setattr(verification, "useless_int8", lambda bundle, task: [])
    return exported


@pytest.fixture
def config(tmp_path: Path) -> Config:
    captures = {"photos": str(tmp_path / "photos"), "side": 16}
    return build_config({"captures": captures, "learning": {"batch": 4}})


@pytest.fixture
def task(config: Config) -> LearningTask:
    return task_of(config, recorded(config))


@pytest.fixture
def weights(task: LearningTask) -> NDArray[np.float32]:
    """As this version lays them out."""
    return initial_weights(task, 3)


@pytest.fixture
def other(task: LearningTask) -> Layout:
    """The same slices in another order, as a plug-in has them after its layers were moved about."""
    offset, moved = 0, []
    for piece in reversed(task.layout.slices):
        moved.append(replace(piece, offset=offset))
        offset += piece.size
    return Layout(tuple(moved))


@pytest.fixture
def relaid(task: LearningTask, weights: NDArray[np.float32], other: Layout) -> NDArray[np.float32]:
    """The same weights in that order."""
    return other.pack(task.layout.unpack(torch.from_numpy(weights))).numpy()


@pytest.fixture
def run(tmp_path: Path, config: Config, other: Layout, relaid: NDArray[np.float32]) -> Path:
    """A run that was begun with the other order."""
    folder = RunFolder(tmp_path / "run")
    run_folder.begin(folder, config)
    for number in (0, 3):
        save_checkpoint(folder.checkpoints, Checkpoint(number, 0, relaid, other, {"round": number}))
    return folder.path


def refusal(path: Path, config: Path) -> str:
    return (
        f"{path} holds weights of another compact than this version builds; use the version, or the plug-in, that they were "
        f"trained with, or carry them over by name: pocketfed bundle {config} --weights-from {path}"
    )


def test_a_bundle_is_made_of_a_run_only_by_name(
    run: Path, weights: NDArray[np.float32], exported: list[NDArray[np.float32] | None], tmp_path: Path,
    pocketfed: Run,
) -> None:  # fmt: skip
    for path in (run, path_of(run / "checkpoints", 3)):
        shown = pocketfed("bundle", "--from", path, "-o", tmp_path / "b")
        assert (shown.code, shown.err) == (2, f"Error: {refusal(path, run / 'config.toml')}\n")
    assert exported == []
    told = refusal(run, run / "config.toml").partition("pocketfed ")[2].split(" ")
    shown = pocketfed(*told, "-o", tmp_path / "b")
    assert shown.code == 0, shown.err
    (taken,) = exported
    assert taken is not None
    assert np.array_equal(taken, weights)


def test_nothing_else_takes_them_as_they_lie(
    run: Path, exported: list[NDArray[np.float32] | None], tmp_path: Path, pocketfed: Run
) -> None:
    shown = pocketfed("probe", run, "--photos", tmp_path, "-o", tmp_path / "head")
    assert (shown.code, shown.err) == (2, f"Error: {refusal(run, run / 'config.toml')}\n")
    takers: list[Callable[[], object]] = [
        lambda: open_bundle(run, tmp_path / "made"),
        lambda: open_run(tmp_path / "state", run, None, None, lambda what: None),
        lambda: found_scales(run),
    ]
    for take in takers:
        with pytest.raises(RunFolderError, match="holds weights of another compact"):
            take()
    assert exported == []
    assert not (tmp_path / "made").exists()


def test_a_bundle_names_itself(
    config: Config, task: LearningTask, other: Layout, relaid: NDArray[np.float32], tmp_path: Path, pocketfed: Run
) -> None:  # fmt: skip
    spec = replace(program_spec(task, mixed=False), layout=other.digest)
    contents = Contents(spec, other, relaid, to_toml(config), {PROGRAM: b""})
    bundle = write_bundle(tmp_path / "bundle", contents).folder
    shown = pocketfed("probe", bundle, "--photos", tmp_path, "-o", tmp_path / "head")
    assert (shown.code, shown.err) == (2, f"Error: {refusal(bundle, bundle / 'config.toml')}\n")


def test_weights_in_the_order_of_this_version_are_taken(
    run: Path, config: Config, task: LearningTask, weights: NDArray[np.float32], tmp_path: Path
) -> None:
    save_checkpoint(run / "checkpoints", Checkpoint(4, 0, weights, task.layout, {"round": 4}))
    assert np.array_equal(open_bundle(run, tmp_path / "made").weights, weights)
    untrained = make_bundle(config, None, tmp_path / "untrained", lambda what: None)
    assert np.array_equal(untrained.weights, initial_weights(task, 0))


def test_weights_of_another_backbone_say_what_to_do(
    run: Path, config: Config, other: Layout, relaid: NDArray[np.float32], tmp_path: Path, pocketfed: Run
) -> None:  # fmt: skip
    """Such as one that a plug-in registers by the same name."""
    first = other.slices[-1]
    renamed = Layout((*other.slices[:-1], replace(first, name="backbone.another")))
    save_checkpoint(run / "checkpoints", Checkpoint(4, 0, relaid, renamed, {"round": 4}))
    shown = pocketfed("bundle", run / "config.toml", "--weights-from", run, "-o", tmp_path / "b")
    assert shown.code == 2
    assert shown.err.startswith(
        f"Error: the weights of {run} cannot be carried over: the backbones differ: {first.name} was absent, is "
    )
    assert shown.err.endswith(
        "; use the backbone, and the plug-in, that they were trained with, or begin untrained, without --weights-from\n"
    )

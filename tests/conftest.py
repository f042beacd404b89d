"""What tests share: where real captures are, and small learning tasks."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from pocketfed.core.backbones import BACKBONES
from pocketfed.core.learning_step import Method, step_method
from pocketfed.core.learning_task import LearningTask, initial_weights, learning_task
from pocketfed.core.modality import Modality
from pocketfed.core.plugins import LOADED
from pocketfed.core.views import PhotoView, SoundView, View
from pocketfed.server.aggregators import AGGREGATORS
from pocketfed.simulator.cli import main
from pocketfed.simulator.run_folder import Record

REPOSITORY = Path(__file__).resolve().parent.parent


@contextmanager
def _registries_kept() -> Iterator[None]:
    """What plug-ins add to this process is gone afterwards, so that the order of tests decides nothing."""
    tables: tuple[dict[str, Any], ...] = (BACKBONES, AGGREGATORS, LOADED)
    before = [dict(table) for table in tables]
    modules = set(sys.modules)
    yield
    for table, kept in zip(tables, before, strict=True):
        table.clear()
        table.update(kept)
    for name in set(sys.modules) - modules:
        if name.startswith("pocketfed_plugin_"):
            del sys.modules[name]


@pytest.fixture(autouse=True, scope="module")
def registries_of_a_file() -> Iterator[None]:
    """Plug-ins that a file's fixtures load are there for that file's tests."""
    with _registries_kept():
        yield


@pytest.fixture(autouse=True)
def registries_of_a_test() -> Iterator[None]:
    """Plug-ins that a test loads are there for that test."""
    with _registries_kept():
        yield


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder with real captures; tests that need it are skipped where it is absent."""
    folder = Path(os.environ.get("POCKETFED_DATA", REPOSITORY.parent / "shared" / "data"))
    if not (folder / "cifar10_subset.npz").exists():
        pytest.skip(
            "real captures are absent; set POCKETFED_DATA to the folder that holds cifar10_subset.npz"
        )
    return folder


@pytest.fixture(scope="session")
def small_task() -> LearningTask:
    """Both modalities, small inputs, batches of 6."""
    views: dict[Modality, View] = {
        Modality.PHOTO: PhotoView(side=16),
        Modality.SOUND: SoundView(samples=4000, height=16, width=16),
    }
    return learning_task("compact", views, batch=6)


def random_inputs(method: Method, task: LearningTask, seed: int) -> list[torch.Tensor]:
    """Inputs of a step with untrained weights, random captures and noise, and hyper-parameters far from neutral."""
    rng = np.random.default_rng(seed)
    theta = initial_weights(task, seed)
    inputs = [
        theta,
        (0.01 * rng.standard_normal(task.state_size)).astype(np.float32),
        theta * np.float32(0.9),
    ]
    for example in method.example[3:-1]:
        inputs.append(_random_like(example, rng))
    modalities = (len(method.example) - 4) // 2
    size = method.example[3].shape[0]
    inputs.append(np.asarray([0.05, 0.8, 1e-3, 0.02, 0.4, 0.9, 1e-3] + [size] * modalities, dtype=np.float32))
    return [torch.from_numpy(array) for array in inputs]


def _random_like(example: torch.Tensor, rng: np.random.Generator) -> NDArray[Any]:
    shape = tuple(example.shape)
    if example.dtype == torch.uint8:
        return rng.integers(0, 256, shape, dtype=np.uint8)
    if example.dim() == 2:
        return (0.1 * rng.standard_normal(shape)).astype(np.float32)
    return rng.random(shape, dtype=np.float32)


@pytest.fixture(scope="session")
def photo_step(small_task: LearningTask) -> Method:
    """The small task's step on photos."""
    return step_method(small_task, [Modality.PHOTO])


class Silent:
    """A watcher that only remembers."""

    def __init__(self) -> None:
        self.records: list[Record] = []

    def phase(self, text: str) -> None: ...

    def note(self, text: str) -> None: ...

    def answered(self, round_number: int, done: int, cohort: int) -> None: ...

    def finished(self, record: Record) -> None:
        self.records.append(record)


@dataclass(frozen=True)
class Shown:
    """What a command showed."""

    code: int
    out: str
    err: str


@pytest.fixture
def pocketfed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Shown]:
    """Runs the command in this process, through its real entry point; importing torch anew would take seconds."""

    def run(*arguments: object) -> Shown:
        monkeypatch.setattr(sys, "argv", ["pocketfed", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        code = ended.value.code or 0
        assert isinstance(code, int)
        return Shown(code, *capsys.readouterr())

    return run

"""The program of a run: its task, and the folder from which every worker loads it."""

from collections.abc import Sequence
from pathlib import Path

from pocketfed.core.captures.windows import window_size
from pocketfed.core.learning_step import methods
from pocketfed.core.learning_task import LearningTask, learning_task
from pocketfed.core.modality import Modality
from pocketfed.core.optimisers import choose_optimiser
from pocketfed.core.processors import cores
from pocketfed.core.program_spec import ProgramSpec, program_spec
from pocketfed.core.views import PhotoView, SoundView, View
from pocketfed.mobile_client.runtime import ExecutorchRuntime, Runtime, TorchRuntime
from pocketfed.mobile_client.threads import fastest_threads
from pocketfed.simulator.config import Config
from pocketfed.simulator.config_file import build_config, read_toml, to_toml
from pocketfed.simulator.workers import workers_of


def recorded(config: Config) -> list[Modality]:
    """The modalities that a configuration's captures have; both, if it names none."""
    paths = {Modality.PHOTO: config.captures.photos, Modality.SOUND: config.captures.sounds}
    named = [modality for modality, path in paths.items() if path is not None]
    return named or list(Modality)


def task_of(config: Config, modalities: Sequence[Modality]) -> LearningTask:
    """The learning task of a configuration, for the modalities that its captures have."""
    every: dict[Modality, View] = {
        Modality.PHOTO: PhotoView(side=config.captures.side),
        Modality.SOUND: SoundView(samples=window_size(config.captures.seconds)),
    }
    views = {modality: view for modality, view in every.items() if modality in modalities}
    optimiser = choose_optimiser(config.learning.optimiser)
    return learning_task(config.learning.backbone, views, config.learning.batch, optimiser)


def save_program(folder: Path, config: Config, task: LearningTask) -> list[str]:
    """Write what `load_runtime` reads: configuration, modalities and, for ExecuTorch, program and threads.

    Where there are more cores than workers, a worker runs the program on as many threads as proved fastest.

    Returns:
        One line for each operator of the program that a slow kernel runs; `config.allow_portable` accepts them.

    Raises:
        ExportError: the task cannot be exported.
    """
    (folder / "config.toml").write_text(to_toml(config))
    (folder / "modalities").write_text("\n".join(task.views))
    if config.runtime != "executorch":
        return []
    # The exporter is for this process, not for workers.
    from pocketfed.export.inspection import slow_operators
    from pocketfed.export.program import task_program

    mixed = config.learning.mode == "mixed"
    program = task_program(task, mixed, config.allow_portable)
    (folder / "program.pte").write_bytes(program)
    share = max(1, cores() // workers_of(config))
    best = fastest_threads(folder / "program.pte", program_spec(task, mixed), [1, share])
    (folder / "threads").write_text(str(best))
    return slow_operators(program)


def load_task(folder: Path) -> tuple[Config, LearningTask]:
    """Configuration and task of the program that `save_program` wrote."""
    config = build_config(read_toml(folder / "config.toml"))
    return config, task_of(config, [Modality(name) for name in (folder / "modalities").read_text().split()])


def load_runtime(folder: Path) -> tuple[ProgramSpec, Runtime]:
    """The program that `save_program` wrote, ready to run."""
    config, task = load_task(folder)
    mixed = config.learning.mode == "mixed"
    spec = program_spec(task, mixed)
    if config.runtime == "executorch":
        return spec, ExecutorchRuntime(
            (folder / "program.pte").read_bytes(), int((folder / "threads").read_text())
        )
    return spec, TorchRuntime(methods(task, mixed))

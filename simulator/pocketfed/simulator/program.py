"""The program of a run: its task, and the folder from which every worker loads it."""

from collections.abc import Sequence
from pathlib import Path

from pocketfed.core.captures.windows import window_size
from pocketfed.core.learning_step import methods
from pocketfed.core.learning_task import LearningTask, learning_task
from pocketfed.core.modality import Modality
from pocketfed.core.program_spec import ProgramSpec, program_spec
from pocketfed.core.views import PhotoView, SoundView, View
from pocketfed.mobile_client.runtime import ExecutorchRuntime, Runtime, TorchRuntime
from pocketfed.simulator.config import Config, build_config, read_toml, to_toml


def task_of(config: Config, modalities: Sequence[Modality]) -> LearningTask:
    """The learning task of a configuration, for the modalities that its captures have."""
    every: dict[Modality, View] = {
        Modality.PHOTO: PhotoView(side=config.captures.side),
        Modality.SOUND: SoundView(samples=window_size(config.captures.seconds)),
    }
    views = {modality: view for modality, view in every.items() if modality in modalities}
    return learning_task(config.learning.backbone, views, config.learning.batch)


def save_program(folder: Path, config: Config, task: LearningTask) -> None:
    """Write what `load_runtime` reads: the configuration, the modalities and, for ExecuTorch, the program.

    Raises:
        ExportError: the task cannot be exported.
    """
    (folder / "config.toml").write_text(to_toml(config))
    (folder / "modalities").write_text("\n".join(task.views))
    if config.runtime == "executorch":
        from pocketfed.export.program import task_program  # the exporter is for this process, not for workers

        (folder / "program.pte").write_bytes(task_program(task, mixed=config.learning.mode == "mixed"))


def load_runtime(folder: Path) -> tuple[ProgramSpec, Runtime]:
    """The program that `save_program` wrote, ready to run on one thread."""
    config = build_config(read_toml(folder / "config.toml"))
    task = task_of(config, [Modality(name) for name in (folder / "modalities").read_text().split()])
    mixed = config.learning.mode == "mixed"
    spec = program_spec(task, mixed)
    if config.runtime == "executorch":
        return spec, ExecutorchRuntime((folder / "program.pte").read_bytes())
    return spec, TorchRuntime(methods(task, mixed))

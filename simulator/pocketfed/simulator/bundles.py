"""What `--bundle` may name: a bundle, or that from which one can be made, a configuration or a simulated run.

Making one takes seconds to import; a bundle that is there already needs none of it.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pocketfed.core.bundle import CONFIG, MANIFEST, PROGRAM, Bundle, Contents, read_bundle, write_bundle
from pocketfed.core.errors import BundleError
from pocketfed.core.program_spec import ProgramSpec, program_spec
from pocketfed.simulator import run_folder
from pocketfed.simulator.config import Config, build_config, read_toml, to_toml


def open_bundle(path: Path, made: Path, tell: Callable[[str], None] = lambda text: None) -> Bundle:
    """The bundle at `path`; made, and put into the folder `made`, if that is a configuration or a run folder.

    A run folder gives the weights of its last finished round, one of its checkpoints its own, and a configuration
    untrained ones.

    Args:
        path: a bundle, the folder of a simulation, a checkpoint in it, or a configuration file.
        made: folder for a bundle that has to be made; one that it holds already is replaced.
        tell: is told of what takes long.

    Raises:
        UserError: it is none of these, or cannot be used.
    """
    if (path / MANIFEST).is_file():
        return read_bundle(path)
    config, weights = _described(path)
    return make_bundle(config, weights, made, tell)


def spec_of(path: Path) -> ProgramSpec:
    """Sizes of the program of the bundle that `open_bundle` would open or make; nothing is exported.

    Raises:
        UserError: as `open_bundle`.
    """
    if (path / MANIFEST).is_file():
        return read_bundle(path).spec
    from pocketfed.simulator.program import recorded, task_of

    config, _ = _described(path)
    return program_spec(task_of(config, recorded(config)), config.learning.mode == "mixed")


def make_bundle(
    config: Config, weights: NDArray[np.float32] | None, folder: Path, tell: Callable[[str], None]
) -> Bundle:
    """Export what a configuration describes.

    Args:
        config: of the federation.
        weights: to begin with, float32 [p]; untrained ones if None.
        folder: of the bundle.
        tell: is told of what takes long.

    Raises:
        ExportError: the network cannot be exported.
    """
    from pocketfed.core.learning_task import initial_weights
    from pocketfed.export.program import task_program
    from pocketfed.simulator.program import recorded, task_of

    task = task_of(config, recorded(config))
    mixed = config.learning.mode == "mixed"
    tell("exporting the learning step (kept for the next time)")
    program = task_program(task, mixed, config.allow_portable)
    begun = initial_weights(task, config.seed) if weights is None else weights
    return write_bundle(
        folder,
        Contents(program_spec(task, mixed), task.layout, begun, to_toml(config), {PROGRAM: program}),
    )


def config_of(bundle: Bundle) -> Config:
    """The configuration that a bundle was made from.

    Raises:
        ConfigError: it is not one that this version reads.
    """
    return build_config(read_toml(bundle.folder / CONFIG))


def _described(path: Path) -> tuple[Config, NDArray[np.float32] | None]:
    """A configuration file's, or a run folder's with the weights of its last finished round."""
    if path.is_file() and path.suffix != run_folder.SUFFIX:
        return build_config(read_toml(path)), None
    if path.suffix != run_folder.SUFFIX and not (path / CONFIG).is_file():
        raise BundleError(
            f"{path} is no bundle (it has no {MANIFEST}) and no run folder (it has no {CONFIG}); "
            "give a bundle, the folder of a simulation, or a configuration file"
        )
    config, last = run_folder.read_model(path)
    return config, last.weights if last else None

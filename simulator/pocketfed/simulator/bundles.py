"""What `--bundle` may name: a bundle, or that from which one can be made, a configuration or a simulated run."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pocketfed.core.bundle import CONFIG, MANIFEST, Bundle, read_bundle, write_bundle
from pocketfed.core.errors import BundleError
from pocketfed.core.learning_task import initial_weights
from pocketfed.core.program_spec import program_spec
from pocketfed.simulator import run_folder
from pocketfed.simulator.config import Config, build_config, read_toml, to_toml
from pocketfed.simulator.program import recorded, task_of


def open_bundle(path: Path, made: Path, tell: Callable[[str], None] = lambda text: None) -> Bundle:
    """The bundle at `path`; made, and put into the folder `made`, if that is a configuration or a run folder.

    A run folder gives the weights of its last finished round, a configuration untrained ones.

    Args:
        path: a bundle, the folder of a simulation, or a configuration file.
        made: folder for a bundle that has to be made; one that it holds already is replaced.
        tell: is told of what takes long.

    Raises:
        UserError: it is none of these, or cannot be used.
    """
    if (path / MANIFEST).is_file():
        return read_bundle(path)
    if path.is_file():
        return make_bundle(build_config(read_toml(path)), None, made, tell)
    if not (path / CONFIG).is_file():
        raise BundleError(
            f"{path} is no bundle (it has no {MANIFEST}) and no run folder (it has no {CONFIG}); "
            "give a bundle, the folder of a simulation, or a configuration file"
        )
    _, config, last = run_folder.reopen(path)
    return make_bundle(config, last.weights if last else None, made, tell)


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
    # Exporting takes seconds to import, and a bundle that is there already needs none of it.
    from pocketfed.export.program import task_program

    task = task_of(config, recorded(config))
    mixed = config.learning.mode == "mixed"
    tell("exporting the learning step (kept for the next time)")
    program = task_program(task, mixed, config.allow_portable)
    begun = initial_weights(task, config.seed) if weights is None else weights
    return write_bundle(folder, program_spec(task, mixed), task.layout, begun, program, to_toml(config))


def config_of(bundle: Bundle) -> Config:
    """The configuration that a bundle was made from.

    Raises:
        ConfigError: it is not one that this version reads.
    """
    return build_config(read_toml(bundle.folder / CONFIG))

"""Trained weights for a bundle: a run's own, or those of another bundle or run, from which it may differ in everything
but the backbone."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pocketfed.core.bundle import is_bundle
from pocketfed.core.errors import BundleError, MigrationError, RunFolderError
from pocketfed.core.learning_task import initial_weights
from pocketfed.core.migration import migrate
from pocketfed.core.release import CONFIG
from pocketfed.simulator import run_folder
from pocketfed.simulator.bundles import Model, read_model
from pocketfed.simulator.config import Config
from pocketfed.simulator.layout_check import check_layout
from pocketfed.simulator.program import recorded, task_of


def learnt(path: Path, plugins: Sequence[Path] = ()) -> tuple[Config, NDArray[np.float32], list[str]]:
    """What a run has learnt, as it is.

    Args:
        path: of a run folder, for its newest weights, or of a checkpoint in one.
        plugins: in place of those that the run's configuration names; none keep them.

    Returns:
        (configuration, float32 [p], which weights these are, a line each).

    Raises:
        BundleError: it is a bundle.
        RunFolderError: it is neither, cannot be read, or has no weights yet, or those of another network than this version
            builds.
    """
    if is_bundle(path):
        raise BundleError(
            f"{path} is a bundle, and no run; for a new bundle with its weights give a configuration, and --weights-from {path}"
        )
    config, last = run_folder.read_model(path, plugins)
    if last is None:
        raise RunFolderError(
            f"{path} has no weights yet, as no round is finished; let one finish, or give {path / CONFIG} in place of "
            "--from for a bundle that is untrained"
        )
    check_layout(Model(path, config, last.layout, last.weights))
    since = "" if last.round else ", before its first round"
    return config, last.weights, [f"Weights of {path}: round {last.round}{since}"]


def carried_over(path: Path, config: Config) -> tuple[NDArray[np.float32], list[str]]:
    """The weights that a bundle, run folder or checkpoint has, in the layout of another configuration.

    Returns:
        (float32 [size of the configuration's layout], what was carried over and what begins anew, a line each).

    Raises:
        UserError: the path has no trained weights, or those of another backbone.
    """
    model = read_model(path)
    if model.weights is None or model.layout is None:
        raise MigrationError(f"{path} has no trained weights; give a bundle, a run folder or a checkpoint")
    task = task_of(config, recorded(config))
    if model.config.learning.backbone != task.backbone:
        raise MigrationError(
            f"{path} has weights of {model.config.learning.backbone!r}, which cannot begin {task.backbone!r}; choose the "
            "same backbone, or begin with untrained weights"
        )
    try:
        moved = migrate(model.layout, model.weights, task.layout, initial_weights(task, config.seed))
    except MigrationError as error:
        raise MigrationError(
            f"the weights of {path} cannot be carried over: {error}; use the backbone, and the plug-in, that they were trained "
            "with, or begin untrained, without --weights-from"
        ) from error
    numbers = sum(part.size for part in moved.carried)
    notes = [f"Weights of {path}: {len(moved.carried)} slices carried over ({numbers:,} numbers)"]
    notes += [f"Begins anew: {line}" for line in moved.fresh]
    return moved.weights, notes + [f"Left behind: {name}" for name in moved.dropped]

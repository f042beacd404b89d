"""Trained weights of one bundle or run for the next one, which may differ in everything but the backbone."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pocketfed.core.errors import MigrationError
from pocketfed.core.learning_task import initial_weights
from pocketfed.core.migration import migrate
from pocketfed.simulator.bundles import read_model
from pocketfed.simulator.config import Config
from pocketfed.simulator.program import recorded, task_of


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
        raise MigrationError(f"the weights of {path} cannot be carried over: {error}") from error
    numbers = sum(part.size for part in moved.carried)
    notes = [f"Weights of {path}: {len(moved.carried)} slices carried over ({numbers:,} numbers)"]
    notes += [f"Begins anew: {line}" for line in moved.fresh]
    return moved.weights, notes + [f"Left behind: {name}" for name in moved.dropped]

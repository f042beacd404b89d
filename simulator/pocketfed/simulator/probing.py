"""A classifier's head from a model and labelled captures, as people ask for it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from pocketfed.core.captures import Split, load_photos, load_sounds
from pocketfed.core.errors import ConfigError
from pocketfed.core.head import Head
from pocketfed.core.learning_task import initial_weights
from pocketfed.core.modality import Modality
from pocketfed.core.probe import train_head
from pocketfed.core.visible import visible
from pocketfed.simulator.bundles import Model
from pocketfed.simulator.config import Config
from pocketfed.simulator.layout_check import check_layout
from pocketfed.simulator.program import recorded, task_of
from pocketfed.simulator.simulate import load_captures


@dataclass(frozen=True)
class Labelled:
    """Where labelled captures come from.

    Attributes:
        modality: theirs.
        path: a folder or an `.npz`; None for those of the model's own configuration.
        seed: of what is held out; None for the configuration's.
    """

    modality: Modality
    path: Path | None
    seed: int | None


def probe_model(model: Model, labelled: Labelled, tell: Callable[[str], None]) -> Head:
    """Train a head on a model's frozen encoder.

    Args:
        model: whose weights; untrained ones of its seed if it has none.
        labelled: what to train it on.
        tell: is told of what takes long.

    Raises:
        UserError: the model has not learnt from this modality or has weights of another network than this version builds, or the captures cannot be used or are not labelled.
    """
    config = model.config
    modalities = recorded(config)
    if labelled.modality not in modalities:
        raise ConfigError(
            [f"the model has learnt from {', '.join(modalities)}s alone, not from {labelled.modality}s"]
        )
    check_layout(model)
    task = task_of(config, modalities)
    weights = initial_weights(task, config.seed) if model.weights is None else model.weights
    tell("reading captures")
    split = _read(config, labelled)
    tell(f"training a classifier of {labelled.modality}s")
    return train_head(task, weights, split)


def classes_table(head: Head) -> Table:
    """A line for each class, in the order of the scores."""
    table = Table("class")
    for column in ("trained on", "held out", "named rightly"):
        table.add_column(column, justify="right")
    trial = head.trial
    for name, trained, held_out, right in zip(
        head.classes, trial.trained, trial.held_out, trial.right, strict=True
    ):
        table.add_row(visible(name), f"{trained:,}", f"{held_out:,}", f"{right:,}")
    return table


def _read(config: Config, labelled: Labelled) -> Split:
    seed = config.seed if labelled.seed is None else labelled.seed
    if labelled.path is None:
        return load_captures(config.model_copy(update={"seed": seed}))[labelled.modality]
    if labelled.modality is Modality.PHOTO:
        return load_photos(labelled.path, config.captures.side, seed)
    return load_sounds(labelled.path, config.captures.seconds, seed)

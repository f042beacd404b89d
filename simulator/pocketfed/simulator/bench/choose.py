"""What to measure, from what the user asked for."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pocketfed.core.errors import ConfigError, MissingPackageError, RunFolderError
from pocketfed.core.learning_task import initial_weights
from pocketfed.core.modality import Modality
from pocketfed.simulator import run_folder
from pocketfed.simulator.bench.peers import PEERS
from pocketfed.simulator.bench.subject import Subject
from pocketfed.simulator.config import build_config, overlay
from pocketfed.simulator.program import recorded, task_of


def choose_subject(
    backbone: str | None,
    run: Path | None,
    plugins: Sequence[Path],
    modalities: Sequence[str],
    optimiser: str | None,
    batch: int | None,
    allow_portable: bool,
) -> Subject:
    """A network with untrained weights, or that of a run with its newest ones, or those of one of its checkpoints.

    Raises:
        ConfigError: an unknown name, or options that exclude each other.
        RunFolderError: the run folder cannot be used.
    """
    if run is not None and (backbone is not None or plugins):
        raise ConfigError(["--bundle has a backbone of its own; leave --backbone and --plugin out"])
    unknown = [name for name in modalities if name not in list(Modality)]
    if unknown:
        raise ConfigError([f"--modality: {name!r} is neither photo nor sound" for name in unknown])
    values: Mapping[str, Any] = {"plugins": [str(path.resolve()) for path in plugins]}
    if run is not None:
        config, last = run_folder.read_model(run)
        if last is None:
            raise RunFolderError(f"{run} has no finished round yet; let it run, or give --backbone")
        values = config.model_dump(mode="json", exclude_none=True)
    flags = {
        "learning.backbone": backbone,
        "learning.optimiser": optimiser,
        "learning.batch": batch,
        "allow_portable": allow_portable or None,
        "runtime": "executorch",
    }
    config = build_config(overlay(values, flags))
    chosen = [modality for modality in recorded(config) if not modalities or modality in modalities]
    if not chosen:
        raise ConfigError([f"{run} has learnt from no {' or '.join(modalities)}; choose another --modality"])
    task = task_of(config, chosen)
    weights = initial_weights(task, config.seed) if run is None or last is None else last.weights
    return Subject(config, task, weights)


def choose_peers(text: str) -> tuple[str, ...]:
    """Names of peers, by comma.

    Raises:
        ConfigError: an unknown name.
        MissingPackageError: a peer that is not installed; all such peers at once, with their install lines.
    """
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    unknown = [name for name in names if name not in PEERS]
    if unknown:
        raise ConfigError(
            [f"--against: there is no peer {name!r}; choose from: {', '.join(PEERS)}" for name in unknown]
        )
    absent = [PEERS[name] for name in names if not PEERS[name].available()]
    if absent:
        raise MissingPackageError(
            "\n".join(f"{peer.name} is not installed; install it with: {peer.requirement}" for peer in absent)
        )
    return names

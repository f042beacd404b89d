"""What to measure, from what the user asked for."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pocketfed.core.errors import BundleError, ConfigError, MissingPackageError
from pocketfed.core.learning_task import initial_weights
from pocketfed.core.modality import Modality
from pocketfed.core.plugins import load_plugins
from pocketfed.simulator.bench.peers import PEERS
from pocketfed.simulator.bench.subject import Subject
from pocketfed.simulator.bundles import read_model
from pocketfed.simulator.config_file import build_config, overlay
from pocketfed.simulator.layout_check import check_layout
from pocketfed.simulator.program import recorded, task_of


def choose_subject(
    backbone: str | None,
    bundle: Path | None,
    plugins: Sequence[Path],
    modalities: Sequence[str],
    optimiser: str | None,
    batch: int | None,
    allow_portable: bool,
) -> Subject:
    """A network with untrained weights, or that of a bundle with its own, of a run with its newest, or of a checkpoint.

    Raises:
        ConfigError: an unknown name, or options that exclude each other.
        BundleError: the bundle cannot be used, or what `bundle` names has no weights, or those of another network than this
            version builds.
        RunFolderError: the run folder cannot be used.
    """
    if bundle is not None and backbone is not None:
        raise ConfigError(["--bundle has a backbone of its own; leave --backbone out"])
    unknown = [name for name in modalities if name not in list(Modality)]
    if unknown:
        raise ConfigError([f"--modality: {name!r} is neither photo nor sound" for name in unknown])
    values: Mapping[str, Any] = {"plugins": [str(path.resolve()) for path in plugins]}
    model = None
    if bundle is not None:
        load_plugins(plugins)
        model = read_model(bundle)
        if model.weights is None:
            raise BundleError(f"{bundle} has no weights yet; let a run finish a round, or give --backbone")
        check_layout(model)
        values = model.config.model_dump(mode="json", exclude_none=True)
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
        raise ConfigError(
            [f"{bundle} has learnt from no {' or '.join(modalities)}; choose another --modality"]
        )
    task = task_of(config, chosen)
    weights = None if model is None else model.weights
    return Subject(config, task, initial_weights(task, config.seed) if weights is None else weights)


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

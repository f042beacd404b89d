"""FedRepOpt's search for constants: branches with trained scales learn a proxy set in one place.

The scales that they end with are kept, their weights are not. A search is a run like any other, with one phone that
holds all captures, so it can be resumed and has a report.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from pocketfed.core.backbones import BACKBONES
from pocketfed.core.backbones.linear_branches import Scales, searched
from pocketfed.core.errors import ConfigError, RunFolderError
from pocketfed.core.learning_task import LearningTask
from pocketfed.simulator import run_folder
from pocketfed.simulator.bundles import Model
from pocketfed.simulator.config import Config
from pocketfed.simulator.config_file import build_config, overlay
from pocketfed.simulator.layout_check import check_layout
from pocketfed.simulator.program import recorded, task_of

SEARCHED = "-hs"
"""What the name of a network with trained scales ends with."""

TOGETHER: dict[str, Any] = {
    "fleet": {"phones": 1, "photos_only": 0.0, "sounds_only": 0.0},
    "aggregator": "fedavg",
}
"""One phone that has everything, of which a round is an epoch."""


def search_config(values: Mapping[str, Any], backbone: str, flags: Mapping[str, Any]) -> Config:
    """The run that searches the constants of a backbone.

    Args:
        values: of a configuration file; its fleet and aggregation do not count.
        backbone: without the ending of its forms.
        flags: as `overlay` takes them.

    Raises:
        ConfigError: the backbone has no form with trained scales, or a value is a mistake.
    """
    kept = {
        key: value for key, value in values.items() if key not in ("aggregation", "asynchronous", "privacy")
    }
    config = build_config(
        overlay(kept | TOGETHER, {**flags, "learning.backbone": None})
    )  # imports plugins first
    if backbone + SEARCHED not in BACKBONES:
        known = ", ".join(name.removesuffix(SEARCHED) for name in BACKBONES if name.endswith(SEARCHED))
        raise ConfigError([f"{backbone!r} has no form with trained scales; choose one of: {known}"])
    learning = config.learning.model_copy(update={"backbone": backbone + SEARCHED})
    return config.model_copy(update={"learning": learning})


def found_scales(run: Path) -> tuple[tuple[Scales, ...], dict[str, str]]:
    """The scales that a search has ended with, and what is to be known of them.

    Raises:
        RunFolderError: it is no run folder, has no finished round, or its network has no trained scales, or is another than
            this version builds.
    """
    config, last = run_folder.read_model(run)
    if last is None or last.round == 0:
        raise RunFolderError(f"{run} has no finished round yet; let it run first")
    check_layout(Model(run, config, last.layout, last.weights))
    task = task_of(config, recorded(config))
    scales = _scales(task, torch.from_numpy(last.weights))
    if not config.learning.backbone.endswith(SEARCHED) or not scales:
        raise RunFolderError(f"{run} is a run of {config.learning.backbone!r}, which has no trained scales")
    captures = {
        name: _source(path)
        for name, path in (("photos", config.captures.photos), ("sounds", config.captures.sounds))
    }
    return scales, {
        "backbone": config.learning.backbone.removesuffix(SEARCHED),
        "rounds": str(last.round),
        "seed": str(config.seed),
        **(captures if any(captures.values()) else {"photos": "drawn", "sounds": "synthesised"}),
        "learning_rate": f"{config.learning.learning_rate:g}",
        "batch": str(config.learning.batch),
    }


def _scales(task: LearningTask, theta: torch.Tensor) -> tuple[Scales, ...]:
    task.layout.load(task.encoder, theta)
    return tuple(searched(task.encoder))


def _source(path: Path | None) -> str:
    return "" if path is None else path.name

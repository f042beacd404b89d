"""Whether weights lie as the network has them that this version builds: in another order they would be other weights."""

from pathlib import Path

from pocketfed.core.bundle import is_bundle
from pocketfed.core.errors import BundleError, RunFolderError
from pocketfed.core.release import CONFIG
from pocketfed.simulator.bundles import Model
from pocketfed.simulator.program import recorded, task_of
from pocketfed.simulator.run_folder import SUFFIX


def check_layout(model: Model) -> None:
    """Nothing, if a model's weights have the layout of the network that is built of its configuration, or it has none.

    Raises:
        BundleError: they have another one, and are a bundle's.
        RunFolderError: they have another one, and are a run's.
    """
    if model.layout is None:
        return
    task = task_of(model.config, recorded(model.config))
    if model.layout == task.layout:
        return
    refusal = BundleError if is_bundle(model.path) else RunFolderError
    raise refusal(
        f"{model.path} holds weights of another {task.backbone} than this version builds; use the version, or the plug-in, "
        f"that they were trained with, or carry them over by name: pocketfed bundle {_config(model.path)} --weights-from "
        f"{model.path}"
    )


def _config(path: Path) -> Path:
    """The configuration of a bundle, of a run folder, or of a checkpoint in one."""
    return (path.parent.parent if path.suffix == SUFFIX else path) / CONFIG

"""What `--bundle` may name: a bundle, or that from which one can be made, a configuration or a simulated run.

Making one takes seconds to import; a bundle that is there already needs none of it.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pocketfed.core.bundle import Bundle, Contents, is_bundle, read_bundle, write_bundle
from pocketfed.core.errors import BundleError
from pocketfed.core.layout import Layout
from pocketfed.core.plugins import LOADED, plugin_records
from pocketfed.core.program_spec import ProgramSpec, program_spec
from pocketfed.core.release import CONFIG, MANIFEST, PROGRAM
from pocketfed.core.visible import visible
from pocketfed.simulator import run_folder
from pocketfed.simulator.config import Config
from pocketfed.simulator.config_file import build_config, read_toml, to_toml


@dataclass(frozen=True)
class Model:
    """What a path stands for where a network is wanted.

    Attributes:
        path: the same, for messages.
        config: that it was made from.
        layout: of the weights; None if they are untrained.
        weights: float32 [layout.size]; None if they are untrained.
    """

    path: Path
    config: Config
    layout: Layout | None = None
    weights: NDArray[np.float32] | None = None


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
    if is_bundle(path):
        return read_bundle(path)
    from pocketfed.simulator.layout_check import check_layout

    model = _described(path)
    check_layout(model)
    return make_bundle(model.config, model.weights, made, tell)


def read_model(path: Path) -> Model:
    """The network of a bundle, of a run folder (its newest weights), a checkpoint in it, or a configuration file.

    Raises:
        UserError: it is none of these, or cannot be read.
    """
    if not is_bundle(path):
        return _described(path)
    bundle = read_bundle(path)
    return Model(path, config_of(bundle), bundle.read_layout(), bundle.weights)


def spec_of(path: Path) -> ProgramSpec:
    """Sizes of the program of the bundle that `open_bundle` would open or make; nothing is exported.

    Raises:
        UserError: as `open_bundle`.
    """
    if is_bundle(path):
        return read_bundle(path).spec
    from pocketfed.simulator.program import recorded, task_of

    config = _described(path).config
    return program_spec(task_of(config, recorded(config)), config.learning.mode == "mixed")


def make_bundle(
    config: Config, weights: NDArray[np.float32] | None, folder: Path, tell: Callable[[str], None]
) -> Bundle:
    """Export what a configuration describes.

    Args:
        config: of the federation.
        weights: to begin with, float32 [p], in the layout of the network that is built of the configuration; untrained ones if
            None.
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
    about = about_plugins(config)
    return write_bundle(
        folder,
        Contents(
            program_spec(task, mixed), task.layout, begun, bundle_toml(config), {PROGRAM: program}, about
        ),
    )


def bundle_toml(config: Config) -> str:
    """A configuration as bundles have it, which anybody may read: it names the modalities of which there are captures, and
    neither where these lie nor plug-ins, so that the same inputs give the same bundle wherever it is made."""
    named = {key: Path(key) for key in ("photos", "sounds") if getattr(config.captures, key) is not None}
    captures = config.captures.model_copy(update=named)
    return to_toml(config.model_copy(update={"captures": captures, "plugins": ()}))


def about_plugins(config: Config) -> dict[str, list[dict[str, str]]]:
    """What a manifest says of the plug-ins that a bundle needs; nothing if it needs none."""
    return {"plugins": plugin_records(config.plugins)} if config.plugins else {}


def config_of(bundle: Bundle) -> Config:
    """The configuration that a bundle was made from, with the plug-ins that the user has given.

    A bundle is from anywhere, so no path in it is ever imported: what it needs has to be loaded already, by its hash.

    Raises:
        BundleError: a plug-in that it was made with has not been loaded.
        ConfigError: it is not one that this version reads.
    """
    needed = _plugins(bundle)
    if missing := [
        visible(f"{name} (SHA-256 {digest[:12]})") for name, digest in needed if digest not in LOADED
    ]:
        raise BundleError(
            f"{bundle.folder} was made with {', '.join(missing)}, which registers what it needs, and no code is run on a "
            "bundle's word; give that very file with --plugin"
        )
    values = read_toml(bundle.folder / CONFIG)
    return build_config({**values, "plugins": [str(LOADED[digest]) for _, digest in needed]})


def _plugins(bundle: Bundle) -> list[tuple[str, str]]:
    """Name and SHA-256 of the files that a bundle was made with."""
    try:
        return [(str(record["name"]), str(record["sha256"])) for record in bundle.manifest.get("plugins", [])]
    except (KeyError, TypeError) as error:
        raise BundleError(
            f"{bundle.folder / MANIFEST} is damaged: plugins ({error!r}); make the bundle anew"
        ) from error


def _described(path: Path) -> Model:
    """A configuration file's, or a run folder's with the weights of its last finished round."""
    if os.path.isfile(path) and path.suffix != run_folder.SUFFIX:
        return Model(path, build_config(read_toml(path)))
    if path.suffix != run_folder.SUFFIX and not os.path.isfile(path / CONFIG):
        raise BundleError(
            f"{path} is no bundle (it has no {MANIFEST}) and no run folder (it has no {CONFIG}); "
            "give a bundle, the folder of a simulation, or a configuration file"
        )
    config, last = run_folder.read_model(path)
    return Model(path, config, last.layout, last.weights) if last else Model(path, config)

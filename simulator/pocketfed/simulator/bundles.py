"""What `--bundle` may name: a bundle, or that from which one can be made, a configuration or a simulated run.

Making one takes seconds to import; a bundle that is there already needs none of it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pocketfed.core.bundle import CONFIG, MANIFEST, PROGRAM, Bundle, Contents, read_bundle, write_bundle
from pocketfed.core.errors import BundleError
from pocketfed.core.layout import Layout
from pocketfed.core.plugins import LOADED, plugin_digest, plugin_records
from pocketfed.core.program_spec import ProgramSpec, program_spec
from pocketfed.simulator import run_folder
from pocketfed.simulator.config import Config, build_config, read_toml, to_toml


@dataclass(frozen=True)
class Model:
    """What a path stands for where a network is wanted.

    Attributes:
        config: that it was made from.
        layout: of the weights; None if they are untrained.
        weights: float32 [layout.size]; None if they are untrained.
    """

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
    if (path / MANIFEST).is_file():
        return read_bundle(path)
    model = _described(path)
    return make_bundle(model.config, model.weights, made, tell)


def read_model(path: Path) -> Model:
    """The network of a bundle, of a run folder (its newest weights), a checkpoint in it, or a configuration file.

    Raises:
        UserError: it is none of these, or cannot be read.
    """
    if not (path / MANIFEST).is_file():
        return _described(path)
    bundle = read_bundle(path)
    return Model(config_of(bundle), bundle.read_layout(), bundle.weights)


def spec_of(path: Path) -> ProgramSpec:
    """Sizes of the program of the bundle that `open_bundle` would open or make; nothing is exported.

    Raises:
        UserError: as `open_bundle`.
    """
    if (path / MANIFEST).is_file():
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
    about = about_plugins(config)
    return write_bundle(
        folder,
        Contents(
            program_spec(task, mixed), task.layout, begun, bundle_toml(config), {PROGRAM: program}, about
        ),
    )


def bundle_toml(config: Config) -> str:
    """A configuration as bundles have it, which anybody may read: it names the modalities of which there are captures, and
    not where these lie, so that the same inputs give the same bundle wherever it is made."""
    named = {key: Path(key) for key in ("photos", "sounds") if getattr(config.captures, key) is not None}
    return to_toml(config.model_copy(update={"captures": config.captures.model_copy(update=named)}))


def about_plugins(config: Config) -> dict[str, list[dict[str, str]]]:
    """What a manifest says of the plug-ins that a bundle needs; nothing if it needs none."""
    return {"plugins": plugin_records(config.plugins)} if config.plugins else {}


def config_of(bundle: Bundle) -> Config:
    """The configuration that a bundle was made from, with its plug-ins where they are on this machine.

    Raises:
        BundleError: a plug-in that it was made with is not here, or is another by now.
        ConfigError: it is not one that this version reads.
    """
    values = read_toml(bundle.folder / CONFIG)
    named = [Path(str(path)) for path in values.get("plugins") or []]
    return build_config({**values, "plugins": [str(path) for path in _plugins(bundle, named)]})


def _plugins(bundle: Bundle, named: Sequence[Path]) -> list[Path]:
    """The files that a bundle was made with, by their hashes. One inside the bundle itself is never run."""
    records = bundle.manifest.get("plugins", [])
    if len(records) != len(named):
        raise BundleError(
            f"{bundle.folder} contradicts itself: manifest and configuration name other plug-ins"
        )
    found: list[Path] = []
    missing: list[str] = []
    for path, record in zip(named, records, strict=True):
        digest = str(record["sha256"])
        if (known := LOADED.get(digest)) is None:
            inside = path.resolve().is_relative_to(bundle.folder.resolve())
            known = path if path.is_file() and not inside and plugin_digest(path) == digest else None
        if known is None:
            missing.append(f"{record['name']} (SHA-256 {digest[:12]})")
        else:
            found.append(known)
    if missing:
        raise BundleError(
            f"{bundle.folder} was made with {', '.join(missing)}, which registers what it needs and is not here or has "
            "changed since; give that very file with --plugin"
        )
    return found


def _described(path: Path) -> Model:
    """A configuration file's, or a run folder's with the weights of its last finished round."""
    if path.is_file() and path.suffix != run_folder.SUFFIX:
        return Model(build_config(read_toml(path)))
    if path.suffix != run_folder.SUFFIX and not (path / CONFIG).is_file():
        raise BundleError(
            f"{path} is no bundle (it has no {MANIFEST}) and no run folder (it has no {CONFIG}); "
            "give a bundle, the folder of a simulation, or a configuration file"
        )
    config, last = run_folder.read_model(path)
    return Model(config, last.layout, last.weights) if last else Model(config)

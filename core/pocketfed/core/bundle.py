"""The bundle: a folder with all that a phone and a server must agree on, readable in any language.

manifest.json          sizes, names and SHA-256 of every other file
layout.json            names, shapes and roles of the slices of the weight vector
train.pte              the learning step of each modality, and the embeddings
weights.safetensors    the weights that a federation begins with
config.toml            the configuration that the bundle was made from
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from pocketfed.core.atomic import write_atomically
from pocketfed.core.errors import BundleError
from pocketfed.core.layout import Layout
from pocketfed.core.modality import Modality
from pocketfed.core.program_spec import Input, ProgramSpec

FORMAT = 1
MANIFEST, LAYOUT, PROGRAM, WEIGHTS, CONFIG = (
    "manifest.json", "layout.json", "train.pte", "weights.safetensors", "config.toml",
)  # fmt: skip


@dataclass(frozen=True)
class Bundle:
    """A bundle whose manifest has been read and whose files have the hashes that it states.

    Attributes:
        folder: where it lies.
        spec: sizes of the program's inputs.
        id: SHA-256 (hex) of the manifest, and so of everything in it.
    """

    folder: Path
    spec: ProgramSpec
    id: str

    @cached_property
    def program(self) -> bytes:
        """`train.pte`."""
        return (self.folder / PROGRAM).read_bytes()

    @cached_property
    def weights(self) -> NDArray[np.float32]:
        """The weights that a federation begins with, float32 [spec.weights]."""
        weights: NDArray[np.float32] = load((self.folder / WEIGHTS).read_bytes())["weights"]
        return weights

    def read_layout(self) -> Layout:
        """The layout of the weights."""
        return Layout.from_json((self.folder / LAYOUT).read_text())


def write_bundle(
    folder: Path, spec: ProgramSpec, layout: Layout, weights: NDArray[np.float32], program: bytes, config: str
) -> Bundle:
    """Write a bundle into a folder, which may exist; the manifest comes last, and makes the rest valid.

    Args:
        folder: where to.
        spec: sizes of the program's inputs.
        layout: of the weights.
        weights: to begin with, float32 [layout.size].
        program: `train.pte`.
        config: the configuration, as TOML.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = {
        LAYOUT: layout.to_json().encode(),
        PROGRAM: program,
        WEIGHTS: save({"weights": weights}),
        CONFIG: config.encode(),
    }
    for name, content in files.items():
        write_atomically(folder / name, content)
    manifest = {
        "format": FORMAT,
        "spec": asdict(spec),
        "files": {name: hashlib.sha256(content).hexdigest() for name, content in files.items()},
    }
    write_atomically(folder / MANIFEST, json.dumps(manifest, indent=2).encode())
    return read_bundle(folder)


def read_bundle(folder: Path) -> Bundle:
    """Read a bundle and check that it is whole.

    Raises:
        BundleError: it is missing, damaged, or of another format.
    """
    try:
        content = (folder / MANIFEST).read_bytes()
    except OSError as error:
        raise BundleError(f"{folder} is no bundle: {MANIFEST} cannot be read ({error.strerror})") from error
    try:
        manifest = json.loads(content)
        if manifest["format"] != FORMAT:
            raise BundleError(
                f"{folder} has format {manifest['format']!r}, this version reads {FORMAT}; make the bundle anew"
            )
        spec = _spec(manifest["spec"])
        files = dict(manifest["files"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BundleError(f"{folder / MANIFEST} is damaged ({error!r}); make the bundle anew") from error
    for name in (LAYOUT, PROGRAM, WEIGHTS, CONFIG):
        _check(folder / name, str(files.get(name)))
    bundle = Bundle(folder, spec, hashlib.sha256(content).hexdigest())
    try:
        shape, digest = bundle.weights.shape, bundle.read_layout().digest
    except (SafetensorError, KeyError, ValueError) as error:
        raise BundleError(f"{folder} is damaged ({error!r}); make the bundle anew") from error
    if shape != (spec.weights,) or digest != spec.layout:
        raise BundleError(f"{folder} contradicts itself: its weights, layout and manifest do not match")
    return bundle


def copy_bundle(bundle: Bundle, folder: Path) -> Bundle:
    """The same bundle in another folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in (LAYOUT, PROGRAM, WEIGHTS, CONFIG, MANIFEST):
        write_atomically(folder / name, (bundle.folder / name).read_bytes())
    return read_bundle(folder)


def _check(path: Path, digest: str) -> None:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise BundleError(f"{path} cannot be read ({error.strerror}); make the bundle anew") from error
    if hashlib.sha256(content).hexdigest() != digest:
        raise BundleError(f"{path} is not the file that the manifest describes; make the bundle anew")


def _spec(values: Mapping[str, Any]) -> ProgramSpec:
    inputs = {
        Modality(name): Input(tuple(wanted["shape"]), str(wanted["dtype"]), int(wanted["noise"]))
        for name, wanted in values["inputs"].items()
    }
    return ProgramSpec(
        weights=int(values["weights"]),
        state=int(values["state"]),
        batch=int(values["batch"]),
        inputs=inputs,
        mixed=bool(values["mixed"]),
        layout=str(values["layout"]),
    )

"""The bundle: a folder with all that a phone and a server must agree on, readable in any language.

manifest.json          what the bundle is, and size and SHA-256 of every other file
manifest.sig           who vouches for the manifest, and so for everything; absent if nobody does
layout.json            names, shapes and roles of the slices of the weight vector
weights.safetensors    the weights that a federation begins with
config.toml            the configuration that the bundle was made from
train.pte              the learning step of each modality
...                    programs for inference, as the manifest lists them
"""

import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from pocketfed.core.atomic import write_atomically
from pocketfed.core.errors import BundleError, RunFolderError, SignatureError
from pocketfed.core.layout import Layout
from pocketfed.core.parsing import parse_json
from pocketfed.core.program_spec import ProgramSpec
from pocketfed.core.release import (
    CONFIG,
    FORMAT,
    LARGEST_MANIFEST,
    LARGEST_SIGNATURE,
    LAYOUT,
    MANIFEST,
    PROGRAM,
    SIGNATURE,
    WEIGHTS,
    File,
    Release,
    inside,
    read_release,
)
from pocketfed.core.signing import SigningKey, VerifyingKey
from pocketfed.core.strangers import strangers


@dataclass(frozen=True)
class Contents:
    """What a bundle is made of.

    Attributes:
        spec: sizes of the learning step's inputs.
        layout: of the weights.
        weights: to begin with, float32 [layout.size].
        config: the configuration, as TOML.
        files: every program, by path; `train.pte` at least.
        about: what the manifest says besides; JSON values.
        version: rises with every bundle that is released; phones refuse one that is lower than theirs.
    """

    spec: ProgramSpec
    layout: Layout
    weights: NDArray[np.float32]
    config: str
    files: Mapping[str, bytes]
    about: Mapping[str, Any] = field(default_factory=dict)
    version: int = 1


@dataclass(frozen=True)
class Bundle:
    """A release whose files lie in a folder, with the hashes that its manifest states.

    Attributes:
        folder: where they lie.
        release: what the manifest says.
    """

    folder: Path
    release: Release

    @property
    def id(self) -> str:
        """Of the release."""
        return self.release.id

    @property
    def version(self) -> int:
        """Of the release."""
        return self.release.version

    @property
    def spec(self) -> ProgramSpec:
        """Sizes of the program's inputs."""
        return self.release.spec

    @property
    def manifest(self) -> Mapping[str, Any]:
        """As read."""
        return self.release.manifest

    @property
    def program_file(self) -> Path:
        """`train.pte`."""
        return self.folder / PROGRAM

    @property
    def signature(self) -> str | None:
        """Of the manifest, as it lies in the folder; None if nobody signed it."""
        path = self.folder / SIGNATURE
        return _beginning(path, LARGEST_SIGNATURE).decode(errors="replace") if path.exists() else None

    @cached_property
    def program(self) -> bytes:
        """Content of `train.pte`."""
        return self.program_file.read_bytes()

    @cached_property
    def weights(self) -> NDArray[np.float32]:
        """The weights that a federation begins with, float32 [spec.weights]."""
        weights: NDArray[np.float32] = load((self.folder / WEIGHTS).read_bytes())["weights"]
        return weights

    def read_layout(self) -> Layout:
        """The layout of the weights."""
        return Layout.from_json((self.folder / LAYOUT).read_text())


def write_bundle(folder: Path, contents: Contents, key: SigningKey | None = None) -> Bundle:
    """Write a bundle into a folder, which may exist; the manifest comes last, and makes the rest valid.

    The same contents give the same bytes, but for the signature of another key.

    Args:
        folder: where to.
        contents: what of.
        key: vouches for it.
    """
    files = {
        LAYOUT: contents.layout.to_json().encode(),
        WEIGHTS: save({"weights": contents.weights}),
        CONFIG: contents.config.encode(),
        **contents.files,
    }
    manifest = {
        "format": FORMAT,
        "version": contents.version,
        **contents.about,
        "spec": asdict(contents.spec),
        "files": {
            name: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            for name, content in sorted(files.items())
        },
    }
    _clear(folder, keep=set(files))
    for name, content in files.items():
        _write(folder / name, content)
    described = json.dumps(manifest, indent=2).encode()
    (folder / SIGNATURE).unlink(missing_ok=True)
    if key is not None:
        write_atomically(folder / SIGNATURE, key.sign(described).encode())
    write_atomically(folder / MANIFEST, described)
    return read_bundle(folder)


def is_bundle(path: Path) -> bool:
    """Whether there is a folder with a manifest, of whatever kind; what cannot be looked at is none."""
    # Not Path.is_file, which raises for names that are too long and in folders that may not be entered.
    return os.path.isfile(path / MANIFEST)


def read_bundle(folder: Path, trusted: VerifyingKey | None = None) -> Bundle:
    """Read a bundle and check that it is whole.

    Args:
        folder: of the bundle.
        trusted: the key that must have signed it; None takes whatever the files say.

    Raises:
        SignatureError: the trusted key did not sign this manifest.
        BundleError: it is missing, damaged, has a file or folder too many or too few, or is of another format.
    """
    release = read_release(read_manifest(folder, trusted), folder)
    if extra := next(strangers(folder, {*release.files, MANIFEST, SIGNATURE}), None):
        why = "is a link, and a bundle has none" if extra.is_symlink() else "is in no manifest"
        raise BundleError(f"{extra} {why}; remove it, or get the bundle anew")
    for name in release.files:
        _check(folder / name, name, release)
    bundle, spec = Bundle(folder, release), release.spec
    try:
        weights, layout = bundle.weights, bundle.read_layout()
    except (SafetensorError, RunFolderError, KeyError, TypeError, ValueError) as error:
        raise BundleError(f"{folder} is damaged ({error!r}); make the bundle anew") from error
    fits = weights.shape == (layout.size,) == (spec.weights,) and weights.dtype == np.float32
    if not fits or layout.digest != spec.layout:
        raise BundleError(f"{folder} contradicts itself: its weights, layout and manifest do not match")
    return bundle


def read_manifest(folder: Path, trusted: VerifyingKey | None = None) -> bytes:
    """The manifest's bytes.

    Raises:
        SignatureError: the trusted key did not sign them.
        BundleError: there is no manifest, or it is too large to be one.
    """
    try:
        content = _beginning(folder / MANIFEST, LARGEST_MANIFEST + 1)
    except OSError as error:
        raise BundleError(
            f"{folder} is no bundle: {MANIFEST} cannot be read ({error.strerror}); give the folder that pocketfed bundle made"
        ) from error
    if len(content) > LARGEST_MANIFEST:
        raise BundleError(
            f"{folder} is no bundle: its {MANIFEST} is larger than {LARGEST_MANIFEST} bytes; give the folder that pocketfed "
            "bundle made"
        )
    if trusted is not None:
        try:
            signature = _beginning(folder / SIGNATURE, LARGEST_SIGNATURE).decode(errors="replace")
        except OSError as error:
            raise SignatureError(
                f"{folder} is not signed: {SIGNATURE} is missing or unreadable; get it from who made it"
            ) from error
        try:
            trusted.check(content, signature)
        except SignatureError as error:
            raise SignatureError(f"{folder} cannot be trusted: {error}") from error
    return content


def copy_bundle(bundle: Bundle, folder: Path) -> Bundle:
    """The same bundle in another folder, which is empty or not there; the manifest comes last."""
    signed = [SIGNATURE] if bundle.signature is not None else []
    for name in (*bundle.release.files, *signed, MANIFEST):
        _write(folder / name, (bundle.folder / name).read_bytes())
    return read_bundle(folder)


def _clear(folder: Path, keep: set[str]) -> None:
    """Remove what an earlier bundle had and this one has not, and what a process that was killed left half written."""
    try:
        former = {
            inside(name) for name in parse_json(_beginning(folder / MANIFEST, LARGEST_MANIFEST))["files"]
        }
    except (OSError, ValueError, KeyError, TypeError):
        former = set()
    (folder / MANIFEST).unlink(missing_ok=True)  # from here on it is none
    for name in former - keep:
        (folder / name).unlink(missing_ok=True)
        for parent in PurePosixPath(name).parents:
            with suppress(OSError):  # something else is in it
                (folder / parent).rmdir()
    for name in keep | {MANIFEST, SIGNATURE}:
        for litter in (folder / name).parent.glob(f".{Path(name).name}.*"):
            litter.unlink(missing_ok=True)


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, content)


def _beginning(path: Path, size: int) -> bytes:
    """As many bytes of a file, or all if it has less."""
    with path.open("rb") as file:
        return file.read(size)


def _check(path: Path, name: str, release: Release) -> None:
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            # What is larger than every file of the bundle is none of them, and may be larger than memory.
            known = size <= max(entry.bytes for entry in release.files.values())
            digest = hashlib.file_digest(file, "sha256").hexdigest() if known else ""
    except OSError as error:
        raise BundleError(f"{path} cannot be read ({error.strerror}); get or make the bundle anew") from error
    found = File(size, digest)
    if wrong := release.wrong(name, found):
        raise BundleError(f"{path} {wrong}; get or make the bundle anew")

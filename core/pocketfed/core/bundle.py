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
from pocketfed.core.errors import BundleError, SignatureError
from pocketfed.core.layout import Layout
from pocketfed.core.program_spec import ProgramSpec, read_spec
from pocketfed.core.signing import SigningKey, VerifyingKey
from pocketfed.core.strangers import strangers

FORMAT = 2
MANIFEST, SIGNATURE, LAYOUT, PROGRAM, WEIGHTS, CONFIG = (
    "manifest.json", "manifest.sig", "layout.json", "train.pte", "weights.safetensors", "config.toml",
)  # fmt: skip

NEEDED = (LAYOUT, WEIGHTS, CONFIG, PROGRAM)
"""Files without which it is no bundle."""

LARGEST_MANIFEST = 4 << 20
"""Bytes of a manifest; ours have some ten thousand."""

LARGEST_SIGNATURE = 1 << 10
"""Bytes of a signature; ours have some hundred."""


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
class File:
    """What a manifest says of one file: its size in bytes, and its SHA-256 in hex."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class Release:
    """A manifest, and nothing said of whether the files are there.

    Attributes:
        id: SHA-256 (hex) of its bytes, and so of everything in it.
        version: rises with every bundle that is released.
        spec: sizes of the program's inputs.
        files: everything but the manifest and its signature, by path.
        manifest: as read.
    """

    id: str
    version: int
    spec: ProgramSpec
    files: Mapping[str, File]
    manifest: Mapping[str, Any] = field(repr=False)

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.bytes for file in self.files.values())

    def namesake(self, name: str, found: File) -> str | None:
        """The name of another file than `name` that is described like what was found in its place; None if there is none.
        Nothing is like a file without content, since any may be cut to that."""
        others = (other for other, file in self.files.items() if other != name and file == found)
        return next(others, None) if found.bytes else None

    def holds(self, program: str) -> bool:
        """Whether a program, a file or a folder as Core ML's packages are, is among the files."""
        return any(name == program or name.startswith(f"{program}/") for name in self.files)

    def size_of(self, program: str) -> int:
        """Bytes of one program, which is a file, or a folder as Core ML's packages are."""
        return sum(
            file.bytes
            for name, file in self.files.items()
            if name == program or name.startswith(f"{program}/")
        )


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
        shape, digest = bundle.weights.shape, bundle.read_layout().digest
    except (SafetensorError, KeyError, ValueError) as error:
        raise BundleError(f"{folder} is damaged ({error!r}); make the bundle anew") from error
    if shape != (spec.weights,) or digest != spec.layout:
        raise BundleError(f"{folder} contradicts itself: its weights, layout and manifest do not match")
    return bundle


def read_release(content: bytes, origin: Path | str) -> Release:
    """What the bytes of a manifest say.

    Args:
        content: UTF-8 JSON.
        origin: where they are from, for messages.

    Raises:
        BundleError: they are no manifest, or one of another format, or of no whole bundle.
    """
    try:
        manifest = json.loads(content)
        if manifest["format"] != FORMAT:
            raise BundleError(
                f"{origin} has format {manifest['format']!r}, this version reads {FORMAT}; make the bundle anew"
            )
        files = {
            _inside(name): File(_whole(entry["bytes"], 0, "size in bytes"), str(entry["sha256"]))
            for name, entry in manifest["files"].items()
        }
        release = Release(
            hashlib.sha256(content).hexdigest(),
            _whole(manifest["version"], 1, "version"),
            read_spec(manifest["spec"]),
            files,
            manifest,
        )
        unknown = [name for name in dict(manifest.get("programs", {})) if not release.holds(name)]
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise BundleError(
            f"the {MANIFEST} of {origin} is damaged ({error!r}); make the bundle anew"
        ) from error
    if missing := sorted(set(NEEDED) - set(files)):
        raise BundleError(
            f"the {MANIFEST} of {origin} names no {missing[0]}, so this is no whole bundle; make it anew"
        )
    if unknown:
        raise BundleError(
            f"the {MANIFEST} of {origin} contradicts itself: {unknown[0]!r} is a program and no file; make the bundle anew"
        )
    return release


def read_manifest(folder: Path, trusted: VerifyingKey | None = None) -> bytes:
    """The manifest's bytes.

    Raises:
        SignatureError: the trusted key did not sign them.
        BundleError: there is no manifest, or it is too large to be one.
    """
    try:
        content = _beginning(folder / MANIFEST, LARGEST_MANIFEST + 1)
    except OSError as error:
        raise BundleError(f"{folder} is no bundle: {MANIFEST} cannot be read ({error.strerror})") from error
    if len(content) > LARGEST_MANIFEST:
        raise BundleError(f"{folder} is no bundle: its {MANIFEST} is larger than {LARGEST_MANIFEST} bytes")
    if trusted is not None:
        try:
            signature = _beginning(folder / SIGNATURE, LARGEST_SIGNATURE).decode()
        except (OSError, UnicodeDecodeError) as error:
            raise SignatureError(
                f"{folder} is not signed: {SIGNATURE} is missing or unreadable; get it from who made it"
            ) from error
        try:
            trusted.check(content, signature)
        except SignatureError as error:
            raise SignatureError(f"{folder} cannot be trusted: {error}") from error
    return content


def copy_bundle(bundle: Bundle, folder: Path) -> Bundle:
    """The same bundle in another folder."""
    names = [*bundle.release.files, MANIFEST]
    _clear(folder, keep=set(bundle.release.files))
    (folder / SIGNATURE).unlink(missing_ok=True)
    if bundle.signature is not None:
        names.insert(-1, SIGNATURE)
    for name in names:
        _write(folder / name, (bundle.folder / name).read_bytes())
    return read_bundle(folder)


def _clear(folder: Path, keep: set[str]) -> None:
    """Remove what an earlier bundle had and this one has not, and what a process that was killed left half written."""
    try:
        former = {
            _inside(name) for name in json.loads(_beginning(folder / MANIFEST, LARGEST_MANIFEST))["files"]
        }
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
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


def _inside(name: str) -> str:
    path = PurePosixPath(name)
    if (
        path.is_absolute() or ".." in path.parts or not path.parts or str(path) != name
        or "\\" in name or not name.isprintable() or name in (MANIFEST, SIGNATURE)
    ):  # fmt: skip
        raise ValueError(f"{name!r} is no path in a bundle")
    return name


def _whole(value: Any, least: int, what: str) -> int:
    if type(value) is not int or value < least:
        raise ValueError(f"{value!r} is no {what}")
    return value


def _check(path: Path, name: str, release: Release) -> None:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise BundleError(f"{path} cannot be read ({error.strerror}); get or make the bundle anew") from error
    found = File(len(content), hashlib.sha256(content).hexdigest())
    if found == release.files[name]:
        return
    if other := release.namesake(name, found):
        raise BundleError(
            f"{path} holds what the manifest has as {other}: they were swapped, or one was copied over the other; get or "
            "make the bundle anew"
        )
    raise BundleError(f"{path} is not the file that the manifest describes; get or make the bundle anew")

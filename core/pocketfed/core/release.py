"""What a manifest says: the release of a bundle, whether or not its files are there."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from pocketfed.core.errors import BundleError
from pocketfed.core.parsing import LARGEST_EXACT, parse_json, whole
from pocketfed.core.program_spec import ProgramSpec, read_spec

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

    def wrong(self, name: str, found: File) -> str | None:
        """What is wrong with what was found in the place of a file, to follow its name; None if it is the file.

        Swapped files are told from damaged ones; not by files without content, since any may be cut to that.
        """
        if found == self.files[name]:
            return None
        others = (other for other, file in self.files.items() if other != name and file == found)
        if found.bytes and (other := next(others, None)):
            return (
                f"holds what the manifest has as {other}: they were swapped, or one was copied over the other"
            )
        return "is not the file that the manifest describes"

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


def read_release(content: bytes, origin: Path | str) -> Release:
    """What the bytes of a manifest say.

    Args:
        content: UTF-8 JSON.
        origin: where they are from, for messages.

    Raises:
        BundleError: they are no manifest, or one of another format, or of no whole bundle, or of a version that not every
            language reads.
    """
    try:
        manifest = parse_json(content.decode())  # phones get it as text in UTF-8
        if manifest["format"] != FORMAT:
            raise BundleError(
                f"{origin} has format {manifest['format']!r}, this version reads {FORMAT}; make the bundle anew"
            )
        files = {
            inside(name): File(whole(entry["bytes"], "size in bytes"), str(entry["sha256"]))
            for name, entry in manifest["files"].items()
        }
        release = Release(
            hashlib.sha256(content).hexdigest(),
            whole(manifest["version"], "version", least=1),
            read_spec(manifest["spec"]),
            files,
            manifest,
        )
        programs = manifest.get("programs", {})
        if not isinstance(programs, dict):
            raise TypeError(f"{programs!r:.40} names no programs")
        unknown = [name for name in programs if not release.holds(name)]
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise BundleError(
            f"the {MANIFEST} of {origin} is damaged ({error!r}); make the bundle anew"
        ) from error
    if release.version > LARGEST_EXACT:
        raise BundleError(
            f"{origin} has version {release.version}, and not every language reads whole numbers above {LARGEST_EXACT} "
            "exactly; make the bundle anew with a lower one: pocketfed bundle --version"
        )
    if missing := sorted(set(NEEDED) - set(files)):
        raise BundleError(
            f"the {MANIFEST} of {origin} names no {missing[0]}, so this is no whole bundle; make it anew"
        )
    if unknown:
        raise BundleError(
            f"the {MANIFEST} of {origin} contradicts itself: {unknown[0]!r} is a program and no file; make the bundle anew"
        )
    return release


def inside(name: str) -> str:
    """The name itself.

    Raises:
        ValueError: it is none that a file of a bundle may have, such as one that leads elsewhere.
    """
    path = PurePosixPath(name)
    if (
        path.is_absolute() or ".." in path.parts or not path.parts or str(path) != name
        or "\\" in name or not name.isprintable() or name in (MANIFEST, SIGNATURE)
    ):  # fmt: skip
        raise ValueError(f"{name!r} is no path in a bundle")
    return name

"""Where a bundle is put: looked at before it is built, and taken in a way that never leaves less than there was."""

import io
import os
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pocketfed.core.atomic import write_atomically
from pocketfed.core.bundle import LARGEST_MANIFEST, MANIFEST, SIGNATURE, Bundle, read_bundle, read_release
from pocketfed.core.errors import BundleError
from pocketfed.simulator.outputs import make_room


@dataclass(frozen=True)
class Place:
    """Where a bundle is to go.

    Attributes:
        out: its folder, links resolved.
        former: id of the bundle that is there and may be replaced; None if nothing is there.
        zipped: whether it is also written as one file beside it.
    """

    out: Path
    former: str | None
    zipped: bool

    @property
    def archive(self) -> Path:
        """The one file."""
        return archive_of(self.out)


def archive_of(folder: Path) -> Path:
    """The file beside a bundle that holds all of it."""
    return folder.with_name(folder.name + ".zip")


def choose_place(out: Path, zipped: bool, force: bool) -> Place:
    """A place for a bundle, if nothing would be lost there but bundles that may be replaced.

    Args:
        out: folder of the bundle; a link stands for what it leads to.
        zipped: whether a .zip is wanted. One of the bundle that is replaced is replaced too, so as not to lie beside another.
        force: whether a bundle that is there may be replaced, and a .zip that holds one.

    Raises:
        BundleError: something else is there, or a bundle that may not be replaced.
        ConfigError: nothing can be written there.
    """
    try:
        place = out.resolve()
    except (OSError, RuntimeError) as error:  # a link that leads to itself
        raise BundleError(f"{out} leads nowhere ({error}); choose another folder") from error
    former = _former(place, out, force)
    archive = archive_of(place)
    if former is not None and _held(archive) == former:
        zipped = True
    elif zipped and os.path.lexists(archive):
        if _held(archive) is None:
            raise BundleError(
                f"{archive} exists and is no .zip of a bundle; choose another folder than {out}"
            )
        if not force:
            raise BundleError(f"{archive} exists; add --force to replace it")
    make_room(place, "--out")
    return Place(place, former, zipped)


def _former(place: Path, out: Path, force: bool) -> str | None:
    """The id of the bundle that is replaced; None if nothing is there."""
    if not place.exists():
        return None
    try:
        found = read_bundle(place).id
    except BundleError as error:
        raise BundleError(
            f"{out} exists and is no whole bundle ({error}); choose another folder, or remove this one"
        ) from error
    if not force:
        raise BundleError(f"{out} exists; add --force to replace it")
    return found


def _held(archive: Path) -> str | None:
    """The id of the bundle in a .zip; None if there is none in it, or no such file."""
    try:
        with zipfile.ZipFile(archive) as opened, opened.open(f"{archive.stem}/{MANIFEST}") as file:
            return read_release(file.read(LARGEST_MANIFEST), archive).id
    except (
        OSError, EOFError, KeyError, ValueError, RuntimeError, zipfile.BadZipFile, zlib.error, BundleError,
    ):  # fmt: skip
        return None


@contextmanager
def building_at(place: Path) -> Iterator[Path]:
    """A folder beside a place to build in, which is gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix=f".{place.name}.", dir=place.parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def put(made: Bundle, place: Place) -> None:
    """Move a bundle to its place, from a folder of `building_at`.

    What was there is moved aside first and removed last: whenever this is interrupted, it is still there or beside it.

    Raises:
        BundleError: it cannot be moved or zipped; what was there is there.
    """
    archive = made.folder.with_name("archive")
    try:
        if place.zipped:
            write_atomically(archive, zip_of(made, place.out.name))
        if place.former is None:
            made.folder.rename(place.out)
        else:
            _exchange(made.folder, place.out)
        if place.zipped:
            archive.replace(place.archive)
    except OSError as error:
        raise BundleError(
            f"the bundle cannot be put at {place.out} ({error.strerror}); make room there"
        ) from error


def _exchange(new: Path, place: Path) -> None:
    aside = Path(tempfile.mkdtemp(prefix=f".{place.name}.former.", dir=place.parent)) / place.name
    try:
        place.rename(aside)
        new.rename(place)
    except BaseException:
        if aside.exists():
            aside.rename(place)
        aside.parent.rmdir()
        raise
    shutil.rmtree(aside.parent, ignore_errors=True)


def zip_of(bundle: Bundle, name: str) -> bytes:
    """All of a bundle in a folder of this name, as one .zip; the same files give the same bytes."""
    content = io.BytesIO()
    names = [*bundle.release.files, MANIFEST, *([SIGNATURE] if bundle.signature is not None else [])]
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(names):
            entry = zipfile.ZipInfo(f"{name}/{file}", date_time=(1980, 1, 1, 0, 0, 0))
            entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
            archive.writestr(entry, (bundle.folder / file).read_bytes())
    return content.getvalue()

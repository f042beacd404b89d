"""Where a bundle is put: looked at before it is built, and taken in a way that never leaves less than there was."""

import io
import os
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from pocketfed.core.atomic import write_atomically
from pocketfed.core.bundle import Bundle, read_bundle, read_manifest
from pocketfed.core.errors import BundleError
from pocketfed.core.moves import Move, moving
from pocketfed.core.release import LARGEST_MANIFEST, MANIFEST, SIGNATURE, read_release
from pocketfed.simulator.outputs import make_room

ASIDE = ".former"
"""What the folder for what is replaced has in its name besides the place's."""


@dataclass(frozen=True)
class Place:
    """Where a bundle is to go.

    Attributes:
        out: its folder, links resolved.
        former: id of the bundle that is there and may be replaced; None if nothing is there.
        zipped: whether it is also written as one file beside it.
        former_zipped: id of the bundle in such a file that is there and may be replaced; None if there is none.
    """

    out: Path
    former: str | None
    zipped: bool
    former_zipped: str | None

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
        BundleError: something else is there, or a bundle that may not be replaced, or it is inside another one.
        ConfigError: nothing can be written there.
    """
    try:
        place = out.resolve()
    except (OSError, RuntimeError) as error:  # a link that leads to itself
        raise BundleError(f"{out} leads nowhere ({error}); choose another folder") from error
    if inside := next(filter(_is_bundle, place.parents), None):
        raise BundleError(
            f"{out} is inside the bundle {inside}, which would be refused with it; choose another folder"
        )
    former = _former(place, out, force)
    archive = archive_of(place)
    held = _held(archive)
    if former is not None and held == former:
        zipped = True
    elif zipped and os.path.lexists(archive):
        if held is None:
            raise BundleError(
                f"{archive} exists and is no .zip of a bundle and nothing else; choose another folder than {out}"
            )
        if not force:
            raise BundleError(f"{archive} exists; add --force to replace it")
    make_room(place, "--out", ASIDE)
    return Place(place, former, zipped, held)


def _is_bundle(folder: Path) -> bool:
    """Whether it has the manifest of one, with whatever besides."""
    try:
        read_release(read_manifest(folder), folder)
    except BundleError:
        return False
    return True


def _former(place: Path, out: Path, force: bool) -> str | None:
    """The id of the bundle that is replaced; None if nothing is there."""
    if not os.path.exists(place):
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
    """The id of the bundle in a .zip; None if there is none in it, or something besides, or no such file."""
    try:
        with zipfile.ZipFile(archive) as opened, opened.open(f"{archive.stem}/{MANIFEST}") as file:
            release = read_release(file.read(LARGEST_MANIFEST), archive)
            whole = {f"{archive.stem}/{name}" for name in (*release.files, MANIFEST)}
            beside = set(opened.namelist()) - {f"{archive.stem}/{SIGNATURE}"}
            return release.id if beside == whole else None
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
        BundleError: it cannot be moved or zipped, or something else came there since the place was chosen; what is there
            stays there.
    """
    archive = made.folder.with_name("archive")
    try:
        if place.zipped:
            write_atomically(archive, zip_of(made, place.out.name))
        with _folder_beside(place.out) as aside, moving() as move:
            _move_aside(place.out, place.former, _id_of, aside, move)
            move(made.folder, place.out)
            if place.zipped:
                _move_aside(place.archive, place.former_zipped, _held, aside, move)
                move(archive, place.archive)
    except OSError as error:
        raise BundleError(
            f"the bundle cannot be put at {place.out} ({error.strerror}); make room there"
        ) from error


@contextmanager
def _folder_beside(place: Path) -> Iterator[Path]:
    """A folder for what is replaced, gone afterwards; after an error it is not, if something could not be moved back."""
    folder = Path(tempfile.mkdtemp(prefix=f".{place.name}{ASIDE}.", dir=place.parent))
    try:
        yield folder
        shutil.rmtree(folder, ignore_errors=True)
    finally:
        with suppress(OSError):
            folder.rmdir()


def _move_aside(
    path: Path, former: str | None, read: Callable[[Path], str | None], aside: Path, move: Move
) -> None:
    """Move away what is replaced, and look at it there, where nothing comes to it any more; what is gone is not missed.

    Raises:
        BundleError: it is not what it was when the place was chosen.
    """
    if not os.path.lexists(path):
        return
    why = "nothing was there"
    if former is not None:
        moved = aside / path.name
        move(path, moved)
        try:
            if read(moved) == former:
                return
            why = "something else came there"
        except BundleError as error:
            why = str(error).replace(str(moved), str(path))  # to which it is moved back
    raise BundleError(
        f"{path} changed while the bundle was made ({why}), and stays as it is; move it away, or choose another folder"
    )


def _id_of(folder: Path) -> str:
    return read_bundle(folder).id


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

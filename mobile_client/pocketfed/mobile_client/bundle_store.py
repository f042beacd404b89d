"""The bundles that a phone has installed: the newest one, and the one before it in case that is damaged.

bundles/current      which is the newest; written in one step, and only when all of it is on disk
bundles/ID/          an installed bundle, by its id
bundles/incoming/ID/ one on its way; what is there of it is gone on with
bundles/trying       which is run for the first time, and how often that was begun; it is not there afterwards

A process may end at any moment: whatever `current` names was whole before it was named, and nothing that it names is
removed.
"""

import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from pocketfed.core.acceptance import Installed
from pocketfed.core.atomic import flush_folders, flush_names, write_atomically
from pocketfed.core.bundle import Bundle, read_bundle
from pocketfed.core.bundle_id import is_bundle_id
from pocketfed.core.errors import BundleError
from pocketfed.core.release import MANIFEST, SIGNATURE, Release
from pocketfed.core.signing import VerifyingKey
from pocketfed.core.strangers import strangers
from pocketfed.mobile_client.usable import starting

CURRENT, INCOMING, TRYING = "current", "incoming", "trying"

TRIES = 2
"""That a bundle has; a process ends in the middle of one when the runtime aborts, and when a battery is empty."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Pointer:
    """What `current` says: the newest bundle, the one before it, and whose signature both had."""

    id: str
    version: int
    former: str
    key: str


class BundleStore:
    """A folder of bundles that one key has signed."""

    def __init__(self, folder: Path, trusted: VerifyingKey) -> None:
        """Nothing is read or written yet.

        Args:
            folder: made when a bundle comes.
            trusted: who must have signed every bundle; those of another key count as absent.
        """
        self.folder, self.trusted = folder, trusted
        self._failed: set[str] = set()

    @property
    def installed(self) -> Installed | None:
        """The newest bundle that was ever installed, damaged or not; an older one is not accepted any more."""
        pointer = self._pointer()
        return Installed(pointer.id, pointer.version) if pointer else None

    def open(self) -> Bundle | None:
        """The newest bundle that is whole and has not failed; None if there is none."""
        pointer = self._pointer()
        for name in (pointer.id, pointer.former) if pointer else ():
            if name not in self._failed and (bundle := self._read(name)):
                return bundle
        return None

    def fail(self, bundle: Bundle) -> None:
        """Count a bundle as absent as long as this process lives, since it is whole and yet of no use here."""
        self._failed.add(bundle.id)

    def has_failed(self, id: str) -> bool:
        """Whether `fail` was told of this bundle, or processes ended whenever they tried it."""
        return id in self._failed or self._tried(id) >= TRIES

    def find(self, sha256: str) -> Path | None:
        """A file of an installed bundle that should have this hash; it may be damaged."""
        pointer = self._pointer()
        for name in (pointer.id, pointer.former) if pointer else ():
            with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
                manifest = json.loads((self.folder / name / MANIFEST).read_bytes())
                for path, entry in manifest["files"].items():
                    if entry["sha256"] == sha256:
                        return self.folder / name / str(path)
        return None

    def incoming(self, release: Release) -> Path:
        """The folder that the files of a release are brought to; what is there of them is kept, and nothing else.

        Raises:
            BundleError: the disk is full.
        """
        place = self.folder / INCOMING
        with writing(self.folder):
            place.mkdir(parents=True, exist_ok=True)
            for other in place.iterdir():
                if other.name != release.id:
                    shutil.rmtree(other)
            pointer, arrived = self._pointer(), self.folder / release.id
            unnamed = pointer is None or pointer.id != release.id
            if unnamed and arrived.is_dir() and not (place / release.id).is_dir():
                os.replace(arrived, place / release.id)  # a process was killed before it named it
            (place / release.id).mkdir(exist_ok=True)
            for path in strangers(place / release.id, release.files):
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        return place / release.id

    def install(
        self, release: Release, manifest: bytes, signature: str, check: Callable[[Bundle], object]
    ) -> Bundle:
        """Make what has come the phone's bundle, if it is whole and of use here.

        Args:
            release: whose files are in the folder for what is incoming.
            manifest: its bytes.
            signature: of the manifest.
            check: tries the bundle; raises `ProgramError` if it is of no use.

        Raises:
            BundleError: it is not whole, or of no use, or the disk is full; the phone's bundle is still the one before.
        """
        arrived = self.folder / INCOMING / release.id
        with writing(self.folder):
            write_atomically(arrived / SIGNATURE, signature.encode())
            write_atomically(arrived / MANIFEST, manifest)
        whole = read_bundle(arrived, self.trusted)
        with self._trying(whole.id), starting(whole):
            check(whole)
        good, pointer = self.open(), self._pointer()
        former = good.id if good and good.id != release.id else (pointer.former if pointer else "")
        with writing(self.folder):
            flush_folders(arrived)
            # If there is one, it is damaged, or of a process that was killed.
            shutil.rmtree(self.folder / release.id, ignore_errors=True)
            os.replace(arrived, self.folder / release.id)
            self._point(_Pointer(release.id, release.version, former, self.trusted.fingerprint))
            self.tidy()
        return replace(whole, folder=self.folder / release.id)

    def tidy(self) -> None:
        """Remove every folder but those of the newest bundle and the one before it."""
        if (pointer := self._pointer()) is not None:
            for path in self.folder.iterdir():
                if path.is_dir() and path.name not in (pointer.id, pointer.former):
                    shutil.rmtree(path, ignore_errors=True)  # or the next time

    @contextmanager
    def _trying(self, id: str) -> Iterator[None]:
        """Around the first run of a program, which a runtime may answer by ending the process."""
        begun = self._tried(id) + 1
        if begun > 1:
            log.warning("a process ended while it tried bundle %s; trying once more", id[:12])
        with writing(self.folder):
            write_atomically(self.folder / TRYING, json.dumps({"id": id, "tries": begun}).encode())
        try:
            yield
        finally:
            (self.folder / TRYING).unlink(missing_ok=True)

    def _tried(self, id: str) -> int:
        """How often a process has begun to try a bundle, and did not come to the end of it."""
        try:
            noted = json.loads((self.folder / TRYING).read_bytes())
            return int(noted["tries"]) if noted["id"] == id else 0
        except (OSError, ValueError, KeyError, TypeError):
            return 0

    def _read(self, name: str) -> Bundle | None:
        if not name:
            return None
        try:
            bundle = read_bundle(self.folder / name, self.trusted)
            if bundle.id != name:
                raise BundleError(f"{self.folder / name} holds another bundle, {bundle.id[:12]}")
            return bundle
        except BundleError as error:
            log.warning("an installed bundle cannot be used: %s", error)
            return None

    def _pointer(self) -> _Pointer | None:
        try:
            values = json.loads((self.folder / CURRENT).read_bytes())
            pointer = _Pointer(**values)
            if not (isinstance(pointer.version, int) and is_bundle_id(pointer.id)):
                raise ValueError("it names no bundle")
        except FileNotFoundError:
            return self._recovered()
        except (OSError, ValueError, TypeError) as error:
            log.warning("%s cannot be read (%s); looking for bundles beside it", self.folder / CURRENT, error)
            return self._recovered()
        return pointer if pointer.key == self.trusted.fingerprint else None

    def _recovered(self) -> _Pointer | None:
        """What a pointer would say that is not there: of all bundles that are whole, the newest two."""
        names = [path.name for path in self.folder.iterdir()] if self.folder.is_dir() else []
        found = [bundle for name in sorted(names) if is_bundle_id(name) and (bundle := self._read(name))]
        found.sort(key=lambda bundle: bundle.version)
        if not found:
            return None
        former = found[-2].id if len(found) > 1 else ""
        return _Pointer(found[-1].id, found[-1].version, former, self.trusted.fingerprint)

    def _point(self, pointer: _Pointer) -> None:
        flush_names(self.folder)
        write_atomically(self.folder / CURRENT, json.dumps(asdict(pointer)).encode())
        flush_names(self.folder)


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Say of a disk that is full, or a folder that is not ours, what to do."""
    try:
        yield
    except OSError as error:
        raise BundleError(
            f"no bundle can be written to {folder} ({error.strerror}); make room there"
        ) from error

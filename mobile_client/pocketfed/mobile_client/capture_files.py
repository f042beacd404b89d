"""The files in a folder of captures: which there are, which are finished, and what a program sees of one."""

import os
import stat
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray

from pocketfed.core.captures.decode import decode_photo, decode_sound
from pocketfed.core.captures.folder import PHOTO_SUFFIXES, SOUND_SUFFIXES
from pocketfed.core.captures.windows import cut
from pocketfed.core.errors import CaptureError
from pocketfed.core.modality import Modality
from pocketfed.core.program_spec import Input

LONGEST_SOUND = 2**27
"""Samples, over all channels, of the longest sound that is decoded: 46 minutes of mono at 48 kHz, half a gigabyte."""

SUFFIXES = {
    **dict.fromkeys(PHOTO_SUFFIXES, Modality.PHOTO),
    **dict.fromkeys(SOUND_SUFFIXES, Modality.SOUND),
}
"""Ends of file names, in lower case. Whatever else a file is called (`a.jpg.part`, `notes.txt`), it is no capture."""


@dataclass(frozen=True)
class CaptureFile:
    """A file as it was at one look. A file that changed is another `CaptureFile`.

    Attributes:
        name: relative to the folder, with `/` between the parts.
        modality: by the end of its name.
        size: bytes.
        modified: nanoseconds since 1970.
    """

    name: str
    modality: Modality
    size: int
    modified: int


@dataclass(frozen=True)
class Look:
    """What a folder held.

    Attributes:
        files: captures of the wanted modalities, finished or not, in no order.
        problem: why the folder or a sub-folder could not be listed; None if all was seen.
        complete: whether what is not in `files` is really not there.
    """

    files: tuple[CaptureFile, ...]
    problem: str | None = None
    complete: bool = True


def look(folder: Path, modalities: Collection[Modality], skip: Path) -> Look:
    """List the captures at any depth below `folder`.

    Hidden files and folders, links to folders, whatever is no regular file, and the folder `skip` are ignored.
    A folder that does not exist holds nothing.
    """
    try:
        os.stat(folder)
    except FileNotFoundError:
        return Look((), f"{folder} does not exist")
    except OSError as error:
        return Look((), f"{folder} cannot be listed ({error.strerror})", complete=False)
    files: list[CaptureFile] = []
    problem = None
    pending = [""]  # names of folders, each with a slash at its end
    while pending:
        prefix = pending.pop()
        try:
            with os.scandir(folder / prefix) as entries:
                for entry in entries:
                    name = prefix + entry.name
                    if entry.name.startswith("."):
                        continue
                    if entry.is_dir(follow_symlinks=False):
                        pending += [f"{name}/"] if folder / name != skip else []
                    elif (modality := _modality(entry.name)) is not None and modality in modalities:
                        found = look_at(folder, name, modality)
                        files += [] if found is None else [found]
        except FileNotFoundError:  # it went while we looked
            continue
        except OSError as error:
            problem = f"{folder / prefix} cannot be listed ({error.strerror})"
    return Look(tuple(files), problem, complete=problem is None)


def look_at(folder: Path, name: str, modality: Modality) -> CaptureFile | None:
    """One file as it is now; None if it is gone, or is no regular file (reading from a pipe would never end)."""
    try:
        status = os.stat(os.path.join(folder, name))
    except OSError:
        return None
    if not stat.S_ISREG(status.st_mode):
        return None
    return CaptureFile(name, modality, status.st_size, status.st_mtime_ns)


def _modality(name: str) -> Modality | None:
    return SUFFIXES.get(os.path.splitext(name)[1].lower())


@dataclass
class Settling:
    """Tells files that are finished from files that somebody may still be writing.

    Attributes:
        seconds: a file is finished when it has not been written to for so long, by its own time or by our looks.
            Its own time alone would not do: clocks of phones are set, and a file may come from the future.
        wall: seconds since 1970.
        steady: seconds, never set back.
    """

    seconds: float
    wall: Callable[[], float] = time.time
    steady: Callable[[], float] = time.monotonic
    _since: dict[CaptureFile, float] = field(default_factory=dict)

    def finished(self, files: Iterable[CaptureFile]) -> frozenset[CaptureFile]:
        """Those of the files that are finished; to be called once a look, with all files."""
        wall, steady = self.wall(), self.steady()
        self._since = {file: self._since.get(file, steady) for file in files}
        return frozenset(
            file
            for file, since in self._since.items()
            if max(steady - since, wall - file.modified / 1e9) >= self.seconds
        )


def read_captures(path: Path, modality: Modality, wanted: Input) -> NDArray[Any]:
    """What a program sees of a file: the very numbers that `core.captures` gives for it.

    Args:
        path: the file.
        modality: photo or sound.
        wanted: shape of one capture.

    Returns:
        Photos: uint8 [1, side, side, 3]. Sounds: float32 [windows, samples], at least one window.

    Raises:
        CaptureError: the file cannot be decoded, or is too large to be; the message is "<path> is …".
        OSError: it cannot be read, which says nothing of its content.
        MemoryError: there is too little memory now.
    """
    if modality is Modality.PHOTO:
        return decode_photo(path, wanted.shape[0])[np.newaxis]
    _check_length(path)
    return cut([decode_sound(path)], wanted.shape[0]).items


def _check_length(path: Path) -> None:
    """Refuse a sound by what its header says: a small file can unfold to gigabytes."""
    try:
        info = soundfile.info(path)
    except (soundfile.SoundFileError, OSError, ValueError):
        return  # decoding says what is wrong with it
    if info.frames * info.channels > LONGEST_SOUND:
        raise CaptureError(f"{path} is longer than {LONGEST_SOUND:,} samples")

"""Which files are held within a quota: the newest that fit, the oldest out first."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

from numpy.typing import NDArray

from pocketfed.mobile_client.capture_files import CaptureFile
from pocketfed.mobile_client.decoded import Known

Decode = Callable[[CaptureFile], "NDArray[Any] | None"]
"""The captures of a file, [count, *shape]; None if it cannot be used, or not now."""


class Shelf(Protocol):
    """Where captures are held; `decoded.Writer` is one."""

    def put(self, file: CaptureFile, captures: NDArray[Any], hold: bool) -> None:
        """Hold the captures of a file or, without `hold`, remember only how large they are."""
        ...

    def release(self, files: Sequence[CaptureFile], /) -> None:
        """Hold these files no longer; remember how large they are."""
        ...


def newest_first(files: Iterable[CaptureFile]) -> list[CaptureFile]:
    """By when they were last written to; by name where that is the same."""
    return sorted(files, key=lambda file: (file.modified, file.name), reverse=True)


def surplus_of(newest: Iterable[CaptureFile], quota: int) -> list[CaptureFile]:
    """The files of an inbox that are too much: the oldest beyond `quota` bytes, as they lie in the folder.

    One that is larger than the whole quota is among them, and does not cost the others their place.
    """
    surplus, room = [], quota
    for file in newest:
        room -= file.size if file.size <= quota else 0
        if room < 0 or file.size > quota:
            surplus.append(file)
    return surplus


def hold_newest(
    newest: Sequence[CaptureFile],
    known: Mapping[CaptureFile, Known],
    quota: int,
    least: Callable[[CaptureFile], int],
    decode: Decode,
    shelf: Shelf,
) -> int:
    """Hold the newest files that fit, decoding those that are not held yet.

    From the first file that does not fit, all are left out; files larger than the whole quota are passed over, as they
    never fit. A file is decoded only to be held, or once to learn how large it is. What must go for something newer goes
    before that is stored, so that the quota holds throughout.

    Args:
        newest: all files that could be held, the newest first.
        known: what was decoded before.
        quota: bytes.
        least: bytes that a file which was never decoded must have at least.
        decode: decodes a file.
        shelf: where captures are held. What is held on it is `known`.

    Returns:
        How many files were left out.
    """
    held = {file: known[file].bytes for file in newest if file in known and known[file].held}
    never = [file for file, size in held.items() if size > quota]  # the quota was larger when they came
    shelf.release(never)
    held = {file: size for file, size in held.items() if size <= quota}
    oldest = [file for file in newest if file in held]  # the last one goes first
    used = sum(held.values())
    room = quota  # for this file and all older ones
    too_large = 0
    for place, file in enumerate(newest):
        size = known[file].bytes if file in known else least(file)
        if size <= room and file not in held:  # what had to go for something newer has no room here either
            captures = decode(file)
            if captures is None:
                continue
            size = captures.nbytes
            if fits := size <= room:
                while used + size > quota:  # held beyond `quota - room` are only older files
                    used -= held[oldest[-1]]
                    shelf.release([oldest.pop()])
                used += size
            shelf.put(file, captures, hold=fits)
        if size > quota:
            too_large += 1
        elif size > room:
            rest = set(newest[place:])
            shelf.release([old for old in oldest if old in rest])
            return too_large + len(newest) - place
        else:
            room -= size
    return too_large

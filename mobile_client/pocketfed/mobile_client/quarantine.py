"""Files that cannot be used, each with a reason: one JSON object a line, for people and apps to read.

The files themselves stay where they are; they are not ours to move.
"""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from pocketfed.core.atomic import write_atomically
from pocketfed.core.modality import Modality
from pocketfed.mobile_client.capture_files import CaptureFile


@dataclass(frozen=True)
class Quarantined:
    """A file that is left alone.

    Attributes:
        file: as it was when it was tried; once it has changed it is tried anew.
        reason: a sentence without its subject, such as "is damaged or not a photo".
        again: whether it is tried at every look, because no change of the file would show that it can be read now
            (it may not be opened, or memory was short, for example).
    """

    file: CaptureFile
    reason: str
    again: bool = False


def read_quarantine(path: Path) -> tuple[Quarantined, ...]:
    """What an earlier run wrote. A missing file is an empty one; a damaged line is left out, its file tried again."""
    try:
        lines = path.read_bytes().splitlines()
    except OSError:
        return ()
    return tuple(entry for line in lines if (entry := _parse(line)) is not None)


def write_quarantine(path: Path, entries: Iterable[Quarantined]) -> None:
    """Replace the file by these entries, in one step, ordered by name."""
    lines = [
        json.dumps({**asdict(entry.file), "reason": entry.reason, "again": entry.again})
        for entry in sorted(entries, key=lambda entry: entry.file.name)
    ]
    write_atomically(path, "".join(f"{line}\n" for line in lines).encode())


def _parse(line: bytes) -> Quarantined | None:
    try:
        values = json.loads(line)
        file = CaptureFile(
            str(values["name"]), Modality(values["modality"]), int(values["size"]), int(values["modified"])
        )
        return Quarantined(file, str(values["reason"]), bool(values["again"]))
    except (ValueError, KeyError, TypeError, RecursionError):
        return None

"""The releases of a run, in a file of their own that nothing takes back.

A checkpoint can be damaged, missing or older than what phones were sent; what was given away stays given away. So a
release is on disk before anybody sees the model, and a run that goes on from an older checkpoint pays twice.
"""

import dataclasses
import json
from pathlib import Path

from pocketfed.core.atomic import write_atomically
from pocketfed.core.errors import RunFolderError
from pocketfed.server.privacy.accountant import Release

FILE = "privacy.jsonl"
"""In a run's folder."""


class Ledger:
    """A file with a line for each release.

    Attributes:
        releases: (round, release), in the order in which they happened.
    """

    def __init__(self, folder: Path) -> None:
        """Read what there is.

        Raises:
            RunFolderError: the file is damaged.
        """
        self._path = folder / FILE
        self.releases: list[tuple[int, Release]] = []
        try:
            lines = self._path.read_bytes().splitlines() if self._path.exists() else []
            for line in lines:
                entry = json.loads(line)
                number = entry.pop("round")
                release = Release(**entry)
                if not (release.noise_multiplier > 0 and 0 <= release.asked <= release.population):
                    raise ValueError(line)
                self.releases.append((int(number), release))
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise RunFolderError(
                f"{self._path} is damaged, and without it nobody knows what the run has given away ({error!r}); "
                "restore it from a copy, or begin a new run"
            ) from error

    def add(self, round_number: int, release: Release) -> None:
        """Write a release down.

        Raises:
            RunFolderError: it cannot be written; the release must not happen.
        """
        entries = [*self.releases, (round_number, release)]
        lines = [
            json.dumps({"round": number} | dataclasses.asdict(entry)) + "\n" for number, entry in entries
        ]
        try:
            write_atomically(self._path, "".join(lines).encode())
        except OSError as error:
            raise RunFolderError(
                f"round {round_number} cannot be released, because {self._path} cannot be written "
                f"({error.strerror}); make room and start again to repeat it"
            ) from error
        self.releases = entries

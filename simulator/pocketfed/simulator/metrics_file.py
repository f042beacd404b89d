"""Writes `metrics.jsonl`: each round adds its line, and no line is written twice, however long a run is."""

import json
from collections import deque

from pocketfed.core.atomic import append_durably
from pocketfed.simulator.run_folder import Record, RunFolder, whole_records

WAITING = 500
"""Records that are kept while the disk takes none; of more, the oldest are given up."""


class MetricsFile:
    """The metrics of a run that goes on; in memory is only what could not be written yet.

    Attributes:
        last: the round of the last record, None if there is none.
    """

    def __init__(self, folder: RunFolder, up_to: int) -> None:
        """Find the end of the records up to a round; what is behind it will be written over.

        Args:
            folder: of the run.
            up_to: the round that the run goes on after; -1 for a new run.
        """
        self._folder, self._size = folder, 0
        self.last: int | None = None
        self._waiting: deque[Record] = deque(maxlen=WAITING)
        for record, end in whole_records(folder):
            if record["round"] > up_to:
                break
            self._size, self.last = end, record["round"]

    def read(self) -> list[Record]:
        """All records, those that wait included."""
        written = [record for record, end in whole_records(self._folder) if end <= self._size]
        return [*written, *self._waiting]

    def add(self, record: Record) -> None:
        """Take the record of a round, which the next `write` puts on disk."""
        self._waiting.append(record)
        self.last = record["round"]

    def write(self) -> None:
        """Write what waits, behind the last whole line.

        Raises:
            OSError: the disk takes none; the records still wait.
        """
        lines = "".join(json.dumps(record, allow_nan=False) + "\n" for record in self._waiting)
        self._size = append_durably(self._folder.metrics, self._size, lines.encode())
        self._waiting.clear()

"""A phone's captures: a folder that grows, shrinks and holds anything, and what of it a round trains on.

A microphone or a camera drops files into the folder at any time. The store looks at it, decodes what is new and
finished, and keeps the decoded form, which is small, under its own home. The folder is the truth: what is gone from it
is forgotten at the next look, also from the home.
"""

import logging
import math
import sqlite3
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pocketfed.core.errors import CaptureError
from pocketfed.core.modality import Modality
from pocketfed.core.program_spec import ProgramSpec
from pocketfed.mobile_client.capture_files import CaptureFile, Settling, look, look_at, read_captures
from pocketfed.mobile_client.decoded import Decoded, DecodedSource
from pocketfed.mobile_client.intake import hold_newest, newest_first, surplus_of
from pocketfed.mobile_client.quarantine import Quarantined, read_quarantine, write_quarantine
from pocketfed.mobile_client.store_status import StoreStatus

QUOTA = 2_000_000_000
"""Bytes; half a million photos of 32x32, or nine hours of sound."""

SETTLE = 2.0
"""Seconds; a file that was written to more recently may not be finished."""

log = logging.getLogger(__name__)


class CaptureStore:
    """The captures of one phone, for one program.

    Args:
        folder: where captures appear, sub-folders included. It may come into being later.
        spec: of the program, which says how a capture must look.
        home: the store's own folder; nothing else may write there.
        quota_bytes: of decoded captures. The newest files that fit are held; the oldest go out first.
        own: whether the folder is the app's own inbox. Then the oldest captures in it are deleted at each look at
            which they are more than `quota_bytes` together. Otherwise the files are somebody's, and none is ever touched.
        settle: seconds without a change after which a file counts as finished.
        wall: seconds since 1970.
        steady: seconds, never set back.

    Raises:
        CaptureError: the home cannot be written.
    """

    def __init__(
        self,
        folder: Path,
        spec: ProgramSpec,
        home: Path,
        quota_bytes: int = QUOTA,
        *,
        own: bool = False,
        settle: float = SETTLE,
        wall: Callable[[], float] = time.time,
        steady: Callable[[], float] = time.monotonic,
    ) -> None:
        self._folder, self._home, self._inputs = folder.absolute(), home.absolute(), spec.inputs
        self._quota, self._own = quota_bytes, own
        self._settling = Settling(settle, wall, steady)
        self._decoded = Decoded(self._home / "captures.sqlite", spec.inputs)
        self._log = self._home / "quarantine.jsonl"
        self._quarantine = {entry.file: entry for entry in read_quarantine(self._log)}
        self._unfinished = self._left_out = 0
        self._problem: str | None = None
        self._told: StoreStatus | None = None  # what the log says

    @property
    def problem(self) -> str | None:
        """What kept the last look from seeing or storing everything; None if nothing did."""
        return self._problem

    def scan(self, between: Callable[[], None] = lambda: None) -> None:
        """Look at the folder once: decode what is new, forget what is gone, keep to the quota.

        What has changed since the last look is logged.

        Args:
            between: called before each file is decoded; may wait, or raise to give up. What was decoded is kept.
        """
        try:
            try:
                self._look(between)
            except sqlite3.OperationalError:
                raise
            except sqlite3.DatabaseError:  # damaged: all of it can be made again
                self._decoded.discard()
                self._look(between)
        except sqlite3.Error as error:
            self._problem = f"decoded captures cannot be stored ({error})"
        finally:
            self._tell()

    def snapshot(self) -> Mapping[Modality, DecodedSource]:
        """What a round trains on: the captures held now, by modality, ordered by name.

        It stays the same as long as it lives, whatever happens to the folder, to the store, or to the files of the
        store. Let go of it after the round: until then forgotten captures keep their place on the disk.

        Raises:
            CaptureError: the disk fails.
        """
        return self._decoded.reading()

    def status(self) -> StoreStatus:
        """What is held now, and what the last look found.

        Raises:
            CaptureError: the disk fails.
        """
        with self._decoded.failures_named(), self._decoded.writing() as writer:
            counts, known = writer.counts(), writer.known()
        held = sum(entry.bytes for entry in known.values() if entry.held)
        quarantined = tuple(sorted(self._quarantine.values(), key=lambda entry: entry.file.name))
        return StoreStatus(counts, held, self._unfinished, self._left_out, quarantined, self._problem)

    def _look(self, between: Callable[[], None]) -> None:
        seen = look(self._folder, self._inputs, skip=self._home)
        self._problem = seen.problem
        settled = self._settling.finished(seen.files)
        before = dict(self._quarantine)
        # Before anything is written: the inbox may be what fills the disk.
        gone = self._delete_oldest(settled) if self._own else set()
        try:
            with self._decoded.writing() as writer:
                known = writer.known()
                files = set(seen.files) - gone
                if seen.complete:
                    self._quarantine = {file: before[file] for file in files if file in before}
                else:
                    files |= known.keys() - gone  # they may still be there
                writer.forget(known.keys() - files)
                finished = [file for file in files if file in settled or file in known]
                self._unfinished = len(files) - len(finished)
                self._left_out = hold_newest(
                    newest_first(finished), known, self._quota, self._least,
                    lambda file: self._decode(file, between), writer,
                )  # fmt: skip
        finally:
            if self._quarantine != before:
                self._write_quarantine()

    def _decode(self, file: CaptureFile, between: Callable[[], None]) -> NDArray[Any] | None:
        """The captures of a file; None, with a reason in the quarantine or a count as unfinished, if there are none."""
        if (entry := self._quarantine.get(file)) is not None and not entry.again:
            return None
        if self._decoded.journal_bytes() > self._quota:  # a round has been reading for long; let it end
            self._unfinished += 1
            return None
        between()
        path = self._folder / file.name
        captures, refusal = None, None
        try:
            path.open("rb").close()
            captures = read_captures(path, file.modality, self._inputs[file.modality])
        except OSError as error:
            refusal = Quarantined(file, f"cannot be read ({error.strerror})", again=True)
        except MemoryError:
            refusal = Quarantined(file, "takes more memory than there was", again=True)
        except CaptureError as error:
            refusal = Quarantined(file, str(error).removeprefix(f"{path} "))
        if look_at(self._folder, file.name, file.modality) != file:  # somebody wrote to it, or took it away
            self._unfinished += 1
            return None
        self._quarantine.pop(file, None)
        if refusal is not None:
            self._quarantine[file] = refusal
        return captures

    def _least(self, file: CaptureFile) -> int:
        """Bytes of one capture: what a file decodes to, at least."""
        wanted = self._inputs[file.modality]
        return math.prod(wanted.shape) * np.dtype(wanted.dtype).itemsize

    def _delete_oldest(self, finished: Collection[CaptureFile]) -> set[CaptureFile]:
        """Delete what is too much in the folder; which files these are."""
        surplus = surplus_of(newest_first(finished), self._quota)
        for file in surplus:
            if look_at(self._folder, file.name, file.modality) == file:
                try:
                    (self._folder / file.name).unlink(missing_ok=True)
                except OSError as error:
                    self._problem = f"{self._folder / file.name} cannot be deleted ({error.strerror})"
            self._quarantine.pop(file, None)
        return set(surplus)

    def _tell(self) -> None:
        """Log what has changed, once."""
        told = self._told or StoreStatus()
        try:
            status = self.status()
        except CaptureError as error:
            status = replace(told, problem=self._problem or str(error))
        if status.problem != told.problem:
            if status.problem is None:
                log.info("captures: this is over: %s", told.problem)
            else:
                log.warning("captures: %s", status.problem)
        if self._told is None or status.summary != told.summary:
            where = f", see {self._log}" if status.quarantined else ""
            log.info("captures: %s%s", status.summary, where)
        self._told = status

    def _write_quarantine(self) -> None:
        try:
            write_quarantine(self._log, self._quarantine.values())
        except OSError as error:
            self._problem = f"{self._log} cannot be written ({error.strerror})"

"""Decoded captures on disk: no file is decoded twice, and a round sees the same captures from its start to its end.

An SQLite database with one row a capture, in the form that a program takes. A round reads inside one transaction: what
is added, forgotten or even deleted from the disk meanwhile does not reach it. Everything here can be made again from
the captures, so a damaged database is thrown away.

    files       name, modality, size, modified, form, bytes; held: whether its captures are here, or only their size
    captures    file, data: the bytes of one array, little-endian, in C order
"""

import os
import sqlite3
import weakref
from collections.abc import Collection, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pocketfed.core.errors import CaptureError
from pocketfed.core.modality import Modality
from pocketfed.core.program_spec import Input
from pocketfed.mobile_client.capture_files import CaptureFile

FORMAT = 1
"""Of the tables; a database of another format is thrown away."""

PAGE = 16_384
"""Bytes; holds five photos of 32x32, where SQLite's own 4096 would waste a quarter on each."""

SLACK = 67_108_864
"""Bytes of journal that are ordinary."""

TABLES = """
CREATE TABLE IF NOT EXISTS files (
    id INTEGER PRIMARY KEY, name BLOB UNIQUE NOT NULL, modality TEXT NOT NULL, size INTEGER NOT NULL,
    modified INTEGER NOT NULL, form TEXT NOT NULL, bytes INTEGER NOT NULL, held INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS captures (
    id INTEGER PRIMARY KEY, file INTEGER NOT NULL REFERENCES files ON DELETE CASCADE, data BLOB NOT NULL);
CREATE INDEX IF NOT EXISTS captures_file ON captures (file);
"""


@dataclass(frozen=True)
class Known:
    """What is known of a file that was decoded once: `bytes` of its captures, and whether they are `held` here."""

    bytes: int
    held: bool


class Decoded:
    """The database of one phone and one program."""

    def __init__(self, path: Path, inputs: Mapping[Modality, Input]) -> None:
        """Open or make it. What was decoded for a program of other inputs is forgotten.

        Raises:
            CaptureError: the folder is not writable, or the disk is full.
        """
        self._path = path
        self._inputs = inputs
        forms = [_form(modality, wanted) for modality, wanted in inputs.items()]
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with self.writing() as writer:
                writer.forget_other_forms(forms)
        except (OSError, sqlite3.OperationalError) as error:
            raise CaptureError(
                f"{path} cannot be written ({error}); give a folder on a disk with room."
            ) from error

    @contextmanager
    def writing(self) -> Iterator["Writer"]:
        """Read and change what is held.

        Raises:
            sqlite3.OperationalError: the disk is full or fails; what was held stays.
            sqlite3.DatabaseError: the database is damaged; `discard` it.
        """
        with closing(self._connect()) as connection:
            yield Writer(connection, self._inputs)

    def reading(self) -> dict[Modality, "DecodedSource"]:
        """All captures held at this moment, by modality, ordered by name; modalities without any are absent.

        The same files give the same order, that of `core.captures`. Memory: 8 bytes a capture. Until the sources are
        garbage, the database cannot reuse what is forgotten.

        Raises:
            CaptureError: the disk fails.
        """
        with self.failures_named():
            reading = _Reading(self._connect(), self)
            sources = {m: DecodedSource(reading, m, wanted) for m, wanted in self._inputs.items()}
        return {modality: source for modality, source in sources.items() if len(source)}

    def journal_bytes(self) -> int:
        """What was written since the oldest transaction that still reads began, beyond what is ordinary."""
        try:
            return max(0, self._path.with_name(f"{self._path.name}-wal").stat().st_size - SLACK)
        except OSError:
            return 0

    def discard(self) -> None:
        """Throw everything away. Transactions that are reading keep what they see."""
        for end in ("", "-wal", "-shm"):
            self._path.with_name(f"{self._path.name}{end}").unlink(missing_ok=True)

    @contextmanager
    def failures_named(self) -> Iterator[None]:
        """Turn SQLite's errors into ours; a damaged database is thrown away."""
        try:
            yield
        except sqlite3.OperationalError as error:
            raise CaptureError(f"{self._path} cannot be read ({error}); see to the disk.") from error
        except sqlite3.DatabaseError as error:
            self.discard()
            raise CaptureError(f"{self._path} was damaged ({error}); the next look makes it anew.") from error

    def _connect(self) -> sqlite3.Connection:
        try:
            return _open(self._path)
        except sqlite3.OperationalError:
            raise
        except sqlite3.DatabaseError:  # damaged, foreign, or of another format
            self.discard()
            return _open(self._path)


class Writer:
    """Changes what is held; every method is one transaction."""

    def __init__(self, connection: sqlite3.Connection, inputs: Mapping[Modality, Input]) -> None:
        self._connection = connection
        self._inputs = inputs

    def known(self) -> dict[CaptureFile, Known]:
        """Every file that was decoded, as it was then."""
        rows = self._connection.execute("SELECT name, modality, size, modified, bytes, held FROM files")
        return {
            CaptureFile(_name(row[0]), Modality(row[1]), row[2], row[3]): Known(row[4], bool(row[5]))
            for row in rows
        }

    def put(self, file: CaptureFile, captures: NDArray[Any], hold: bool) -> None:
        """Remember a file with its captures, [count, *shape], or, without `hold`, only how large they are."""
        form = _form(file.modality, self._inputs[file.modality])
        values = (_key(file.name), file.modality.value, file.size, file.modified, form, captures.nbytes, hold)
        little = captures.astype(captures.dtype.newbyteorder("<"), copy=False)
        with _transaction(self._connection) as execute:
            execute("DELETE FROM files WHERE name = ?", (values[0],))
            row = execute(
                "INSERT INTO files (name, modality, size, modified, form, bytes, held) VALUES (?, ?, ?, ?, ?, ?, ?)",
                values,
            ).lastrowid
            for capture in little if hold else ():
                execute("INSERT INTO captures (file, data) VALUES (?, ?)", (row, capture.tobytes()))

    def forget(self, files: Collection[CaptureFile]) -> None:
        """Remove files and their captures; their bytes are overwritten."""
        if files:
            with _transaction(self._connection) as execute:
                for file in files:
                    execute("DELETE FROM files WHERE name = ?", (_key(file.name),))

    def release(self, files: Collection[CaptureFile], /) -> None:
        """Remove the captures of files, and overwrite their bytes; how large they are stays known."""
        if files:
            with _transaction(self._connection) as execute:
                for file in files:
                    key = (_key(file.name),)
                    execute("DELETE FROM captures WHERE file IN (SELECT id FROM files WHERE name = ?)", key)
                    execute("UPDATE files SET held = 0 WHERE name = ?", key)

    def forget_other_forms(self, forms: Collection[str]) -> None:
        """Remove what is of no form in `forms`."""
        marks = ", ".join("?" * len(forms))
        with _transaction(self._connection) as execute:
            execute(f"DELETE FROM files WHERE form NOT IN ({marks})", tuple(forms))

    def counts(self) -> dict[Modality, int]:
        """Captures held, by modality."""
        rows = self._connection.execute(
            "SELECT modality, count(*) FROM captures JOIN files ON files.id = file GROUP BY modality"
        )
        return {Modality(modality): count for modality, count in rows}


class _Reading:
    """One transaction that reads; it ends with the last source that refers to it."""

    def __init__(self, connection: sqlite3.Connection, owner: Decoded) -> None:
        self._connection = connection
        self._owner = owner
        self._end = weakref.finalize(self, connection.close)
        connection.execute("BEGIN")

    def rows(self, modality: Modality) -> NDArray[np.int64]:
        """Row numbers of the captures of a modality, int64 [count], by name and position in the file."""
        rows = self._connection.execute(
            "SELECT captures.id FROM captures JOIN files ON files.id = file WHERE modality = ? "
            "ORDER BY name, captures.id",
            (modality.value,),
        )
        return np.fromiter((row for (row,) in rows), dtype=np.int64)

    def read(self, row: int) -> bytes:
        """The bytes of one capture."""
        with self._owner.failures_named():
            found = self._connection.execute("SELECT data FROM captures WHERE id = ?", (row,)).fetchone()
        return bytes(found[0])


class DecodedSource:
    """The captures of one modality, as they were when the round began; a `CaptureSource`. Only batches are in memory."""

    def __init__(self, reading: _Reading, modality: Modality, wanted: Input) -> None:
        self._reading = reading
        self._rows = reading.rows(modality)
        self._wanted = wanted

    def __len__(self) -> int:
        """Captures."""
        return len(self._rows)

    def __getitem__(self, indices: NDArray[np.int64], /) -> NDArray[Any]:
        """The captures at `indices` (int64 [k]): [k, *shape], the caller's own.

        Raises:
            CaptureError: the disk fails.
        """
        rows = self._rows[indices]
        batch = np.empty((len(rows), *self._wanted.shape), dtype=self._wanted.dtype)
        stored = batch.dtype.newbyteorder("<")
        for place, row in zip(batch, rows, strict=True):
            place[...] = np.frombuffer(self._reading.read(int(row)), dtype=stored).reshape(place.shape)
        return batch


def _open(path: Path) -> sqlite3.Connection:
    # A round may be trained in another thread than the one that began it; SQLite itself serialises the calls.
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    try:
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version not in (0, FORMAT):
            raise sqlite3.DatabaseError(f"format {version}")
        for setting in (
            f"page_size = {PAGE}",
            "auto_vacuum = FULL",  # the file shrinks with what it holds
            "journal_mode = WAL",  # readers and a writer do not wait for each other
            f"journal_size_limit = {SLACK}",
            "synchronous = NORMAL",  # after a power cut it is whole, and may lack the latest captures
            "secure_delete = ON",  # a photo that its owner deleted is not left in free pages
            "foreign_keys = ON",
        ):
            connection.execute(f"PRAGMA {setting}")
        connection.executescript(TABLES)
        if version == 0:
            connection.execute(f"PRAGMA user_version = {FORMAT}")
    except BaseException:
        connection.close()
        raise
    return connection


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[Any]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield connection.execute
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # a full disk ends it by itself
            connection.execute("ROLLBACK")
        raise


def _form(modality: Modality, wanted: Input) -> str:
    return f"{modality.value} {'x'.join(map(str, wanted.shape))} {wanted.dtype}"


def _key(name: str) -> bytes:
    """A name such that the order of bytes is the order of paths, part by part: `a/z` before `a-b/c`."""
    return os.fsencode(name).replace(b"/", b"\0")


def _name(key: bytes) -> str:
    return os.fsdecode(key.replace(b"\0", b"/"))

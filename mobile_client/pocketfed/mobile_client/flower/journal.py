"""The journal: the one message that a phone is at work on, on disk, so that a crash loses nothing.

    pulled ──► received ──► built ──► accepted ──► (empty)

There is one file, named after the state; it is replaced in one step, and its content is hashed. A file that is damaged
is set aside as `damaged` and the phone goes on without it. What a full disk does not take is kept in memory until it
does, and nothing else is done meanwhile.
"""

import hashlib
import json
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from pocketfed.core.atomic import write_atomically
from pocketfed.mobile_client.flower.home import writing

FORMAT = 1
MAX_BYTES = 2**30
"""Of a journal file; a larger one is none of ours."""

MAX_HEAD_LINE = 16_384
TRIES, DAMAGED = "tries", "damaged"

log = logging.getLogger(__name__)


class State(StrEnum):
    """How far the work on a message has come.

    PULLED: the server has marked the message as delivered and will not send it again; its objects are to be pulled.
    RECEIVED: all of it is here; the server need not keep it.
    BUILT: the answer is here, whole; the server may not have heard of it.
    ACCEPTED: the server has agreed to take the answer; some of its objects may be there.
    """

    PULLED = "pulled"
    RECEIVED = "received"
    BUILT = "built"
    ACCEPTED = "accepted"


@dataclass(frozen=True)
class Entry:
    """What is in the journal.

    Attributes:
        state: how far the work has come.
        head: the message, as protobuf: `PullMessagesResponse` until the answer is built, then `PushMessagesRequest`.
        objects: contents of the objects that belong to it.
    """

    state: State
    head: bytes
    objects: tuple[bytes, ...] = ()


class Journal:
    """A folder with at most one entry. Only one process may use it at a time.

    Everything that changes it raises `HomeError` if the disk does not let it, and may be called again then.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._unsaved: Entry | None = None
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            for leftover in folder.glob(".*"):  # of a write that a crash cut short
                leftover.unlink()

    def load(self) -> Entry | None:
        """The entry, if there is one; if it could not be saved yet, it is now.

        Raises:
            HomeError: it still cannot be.
        """
        if self._unsaved is not None:
            return self.save(self._unsaved)
        for state in reversed(State):
            path = self._folder / state
            if not path.exists():
                continue
            try:
                return Entry(state, *_read(path))
            except (OSError, ValueError, KeyError, TypeError) as error:
                log.warning("the journal %s is damaged (%s); its work is lost, the file is kept", path, error)
                with writing(self._folder):
                    os.replace(path, self._folder / DAMAGED)
        return None

    def save(self, entry: Entry) -> Entry:
        """Put an entry in place of the one before it.

        Raises:
            HomeError: it cannot be written. It is kept in memory, and `load` tries again.
        """
        self._unsaved = entry
        with writing(self._folder):
            write_atomically(self._folder / entry.state, _write([entry.head, *entry.objects]))
            self._leave_only(entry.state)
            if entry.state is State.PULLED:
                (self._folder / TRIES).unlink(missing_ok=True)
        self._unsaved = None
        return entry

    def accept(self, entry: Entry) -> Entry:
        """Note that the server takes the answer; costs no rewriting."""
        if entry.state is not State.ACCEPTED:
            with writing(self._folder):
                os.replace(self._folder / State.BUILT, self._folder / State.ACCEPTED)
        return Entry(State.ACCEPTED, entry.head, entry.objects)

    def clear(self) -> None:
        """Forget the entry: its work is done, or has become pointless."""
        self._unsaved = None
        with writing(self._folder):
            self._leave_only(None)
            (self._folder / TRIES).unlink(missing_ok=True)

    @property
    def tries(self) -> int:
        """How often the work on this message has begun and not come to an end."""
        try:
            return int((self._folder / TRIES).read_text()[:4])
        except (OSError, ValueError):
            return 0

    @tries.setter
    def tries(self, count: int) -> None:
        with writing(self._folder):
            write_atomically(self._folder / TRIES, str(count).encode())

    def set_aside(self, entry: Entry) -> None:
        """Keep an entry that makes no sense for a person to look at, and go on without it."""
        with writing(self._folder):
            os.replace(self._folder / entry.state, self._folder / DAMAGED)
        self.clear()

    def _leave_only(self, kept: State | None) -> None:
        # The earliest state goes first: a crash in between must not bring back work that is done.
        for state in State:
            if state is not kept:
                (self._folder / state).unlink(missing_ok=True)


def _write(parts: Sequence[bytes]) -> bytes:
    payload = b"".join(parts)
    head = {
        "format": FORMAT,
        "sha256": hashlib.sha256(payload).hexdigest(),
        "lengths": [len(part) for part in parts],
    }
    return json.dumps(head).encode() + b"\n" + payload


def _read(path: Path) -> tuple[bytes, tuple[bytes, ...]]:
    """Head and objects.

    Raises:
        OSError, ValueError, KeyError, TypeError: the file is damaged.
    """
    if path.stat().st_size > MAX_BYTES:
        raise ValueError("too large")
    with path.open("rb") as file:
        head = json.loads(file.readline(MAX_HEAD_LINE))
        payload = file.read(MAX_BYTES)
    if head["format"] != FORMAT:
        raise ValueError(f"of another version, {head['format']!r}")
    if hashlib.sha256(payload).hexdigest() != head["sha256"]:
        raise ValueError("its hash is wrong")
    parts, end = [], 0
    for length in head["lengths"]:
        parts.append(payload[end : end + length])
        end += length
    if not parts or end != len(payload):
        raise ValueError("its parts do not add up")
    return parts[0], tuple(parts[1:])

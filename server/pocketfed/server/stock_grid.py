"""The grid that a stock Flower run is given, made fit for rounds that end, through its public methods.

Flower's own `send_and_receive` looks every three seconds, hands out answers when all of them are here or the time is
over, waits for minutes for an upload that stopped half-way, and ends the run at an answer that does not decode, or at
a phone that says it has a message before all of it is uploaded.
"""

import logging
import math
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from queue import SimpleQueue
from types import TracebackType
from typing import Self

from flwr.app import Error, Message
from flwr.serverapp import Grid

from pocketfed.core.wire import FAILED
from pocketfed.server.flower_private import NotStoredError
from pocketfed.server.messages import has_expired
from pocketfed.server.run_grid import RunGrid

log = logging.getLogger(__name__)

POLL = 1.0
"""Seconds between two looks for the same answer; each is a call to the SuperLink."""

LOOK = 0.1
"""Seconds between two looks for what has been fetched."""

OFFERS = 3
"""How often messages are offered whose objects the SuperLink does not store."""

FETCHERS = 16
"""Answers that are fetched at the same time. An upload that stops half-way holds one of them up for some minutes."""


class StockGrid(RunGrid):
    """Fetches each answer by itself, in threads, so that a bad one costs nobody else. Use it as a context manager.

    `send_and_receive` yields each answer as it comes, and ends at its deadline whatever the grid inside is doing.
    """

    def __init__(self, inside: Grid, poll: float = POLL) -> None:
        """Nothing is sent yet.

        Args:
            inside: of the run.
            poll: seconds between two looks for the same answer.
        """
        super().__init__(inside.run)
        self._inside, self._poll = inside, poll
        self._lock = threading.Lock()
        self._sent: dict[str, Message] = {}  # what may still be answered
        self._fetched: dict[str, Message] = {}
        self._due: SimpleQueue[tuple[float, str] | None] = SimpleQueue()  # when to look for which answer

    def __enter__(self) -> Self:
        for _ in range(FETCHERS):
            # They may be stuck in a call when the run is over, and must not keep its process alive.
            threading.Thread(target=self._fetch, name="fetching answers", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._forget(list(self._sent))
        for _ in range(FETCHERS):
            self._due.put(None)

    def get_node_ids(self) -> Iterable[int]:
        """See Flower's `Grid`."""
        return self._inside.get_node_ids()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Send; their ids, "" for a phone that is gone, or that does not let its message be uploaded."""
        sent = list(messages)  # Flower's own grid goes through them twice
        ids = self._offer(sent)
        with self._lock:
            self._sent.update({key: message for key, message in zip(ids, sent, strict=True) if key})
        for key in filter(None, ids):
            self._due.put((time.monotonic() + self._poll, key))
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """The answers to these messages that have been fetched, each once. Never waits."""
        with self._lock:
            for key in [key for key, sent in self._sent.items() if has_expired(sent)]:
                del self._sent[key]
            replies = [reply for key in message_ids if (reply := self._fetched.pop(key, None)) is not None]
        return replies

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterator[Message]:
        """Answers as they come, until all are here, the time is over, or the caller wants no more."""
        until = math.inf if timeout is None else time.monotonic() + timeout
        waiting = {key for key in self.push_messages(messages) if key}
        try:
            while waiting and time.monotonic() < until:
                replies = self.pull_messages(waiting)
                for reply in replies:
                    waiting.discard(reply.metadata.reply_to_message_id)
                    yield reply
                if not replies:
                    time.sleep(LOOK)
        finally:
            self._forget(waiting)

    def _offer(self, messages: Sequence[Message]) -> list[str]:
        """Send, and send again what is not stored; at last each by itself, so that a message costs no other phone its own.

        A phone may say that it has a message as soon as it knows of it: a question is all metadata. The SuperLink then
        deletes what has been uploaded of it, and refuses the rest.
        """
        for _ in range(OFFERS):
            with suppress(NotStoredError):
                ids = list(self._inside.push_messages(messages))
                return [message_id or "" for message_id in ids] or [""] * len(messages)
        if len(messages) == 1:
            log.warning("node %d: its message could not be uploaded", messages[0].metadata.dst_node_id)
            return [""]
        return [message_id for message in messages for message_id in self._offer([message])]

    def _fetch(self) -> None:
        while (entry := self._due.get()) is not None:
            at, key = entry
            time.sleep(max(0.0, at - time.monotonic()))
            sent = self._sent.get(key)
            if sent is None:
                continue  # nobody waits for it any more
            reply = self._look(key, sent)
            if reply is None:
                self._due.put((time.monotonic() + self._poll, key))
                continue
            with self._lock:
                if self._sent.pop(key, None) is not None:
                    self._fetched[key] = reply

    def _look(self, key: str, sent: Message) -> Message | None:
        """The answer to one message, if it is here; an error in its place if it cannot be had."""
        try:
            found = list(self._inside.pull_messages([key]))
            if not found:
                return None
            # What it says of its sender is not looked at.
            if found[0].has_error():
                return Message(found[0].error, reply_to=sent)
            return Message(found[0].content, reply_to=sent)
        except Exception as error:  # noqa: BLE001 - Flower's decoding raises whatever its parts raise
            reason = f"the reply cannot be fetched or decoded ({type(error).__name__}: {error})"
            return Message(Error(FAILED, reason), reply_to=sent)

    def _forget(self, message_ids: Iterable[str]) -> None:
        with self._lock:
            for key in message_ids:
                self._sent.pop(key, None)
                self._fetched.pop(key, None)

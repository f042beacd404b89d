"""Flower's `Grid` beside the Fleet API, in one process: no SuperExec, no sub-process, no polls of three seconds."""

import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from flwr.app import Error, Message, RecordDict

from pocketfed.core.errors import UpdateRejected
from pocketfed.core.wire import FAILED
from pocketfed.server.flower_private import Fleet, without_content
from pocketfed.server.messages import has_expired
from pocketfed.server.run_grid import RunGrid

POLL = 0.05
"""Seconds between two looks for answers."""

UPLOAD_PATIENCE = 180.0
"""Seconds that an answer may take from its envelope to its last object, while others are folded. Flower keeps a session
of pushes for as long; phones have slow uplinks, and wait for their turn in a crowd."""


@dataclass(frozen=True)
class _Upload:
    """An answer whose envelope is here and whose objects are still coming."""

    envelope: Message
    objects: tuple[str, ...]
    until: float


class FleetGrid(RunGrid):
    """Messages to and from phones that come over the network.

    `send_and_receive` yields each answer as it comes, also late ones to messages that the call before it sent. An answer
    that cannot be decoded, or whose upload stops half-way, is that phone's failure.
    """

    def __init__(
        self, fleet: Fleet, keep_late: bool = False, stopping: Callable[[], bool] = lambda: False
    ) -> None:
        """Begin a run.

        Args:
            fleet: where phones fetch and leave messages.
            keep_late: whether answers may still come when the call that asked for them is over.
            stopping: asked between polls; waiting ends when it is true.
        """
        super().__init__(fleet.begin_run())
        self._fleet, self._keep_late, self._stopping = fleet, keep_late, stopping
        self._sent: dict[str, Message] = {}  # what may still be answered, without its content
        self._late: set[str] = set()  # of these, what the call before the last one asked
        self._uploads: dict[str, _Upload] = {}

    def get_node_ids(self) -> Iterable[int]:
        """Phones that have shown life."""
        return self._fleet.online()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Leave messages for phones to fetch; their ids, "" for a phone that is gone."""
        sent = list(messages)  # they share their content
        ids = list(self._fleet.post(sent))
        for key, message in zip(ids, sent, strict=True):
            if key:
                self._sent[key] = without_content(message)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """The answers to these messages that are here, each once; none to a message that has expired."""
        return list(self._arrived(message_ids))

    def _arrived(self, message_ids: Iterable[str]) -> Iterator[Message]:
        """Each is decoded when it is asked for: decoded ones take twice the memory."""
        self._forget({key for key, sent in self._sent.items() if has_expired(sent)})
        wanted = self._sent.keys() & set(message_ids)
        until = time.monotonic() + UPLOAD_PATIENCE
        for envelope, objects in self._fleet.answers(wanted - self._uploads.keys()):
            self._uploads[envelope.metadata.reply_to_message_id] = _Upload(envelope, objects, until)
        for key in wanted & self._uploads.keys():
            # Whoever takes them may pull others, or forget some, between two of them.
            if key in self._uploads and (reply := self._take(key)) is not None:
                yield reply

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterator[Message]:
        """Answers as they come, until all are here, the time is over, or the caller wants no more."""
        until = math.inf if timeout is None else time.monotonic() + timeout
        open_ids = {key for key in self.push_messages(messages) if key}
        kinds = {self._sent[key].metadata.message_type for key in open_ids}
        try:
            while open_ids and time.monotonic() < until and not self._stopping():
                open_ids &= self._sent.keys()
                alike = [key for key, sent in self._sent.items() if sent.metadata.message_type in kinds]
                came = False
                for reply in self._arrived(alike):
                    came = True
                    open_ids.discard(reply.metadata.reply_to_message_id)
                    yield reply
                if not came:
                    time.sleep(POLL)
        finally:
            if not self._keep_late:
                self._forget(open_ids)
            else:  # they have the time of the next call; those that had this one have no more
                self._forget(self._late)
                self._late = open_ids

    def _take(self, message_id: str) -> Message | None:
        """An answer whose objects are all here; an error in its place if they will not come any more."""
        upload = self._uploads[message_id]
        if self._fleet.has_arrived(upload.objects):
            content = self._open(upload)
        elif time.monotonic() < upload.until:
            return None
        else:
            content = Error(FAILED, "the upload of the reply stopped half-way")
        del self._uploads[message_id]
        self._fleet.forget(upload.envelope)
        sent = self._sent.pop(message_id)
        return Message(content, reply_to=sent)

    def _open(self, upload: _Upload) -> RecordDict | Error:
        try:
            return self._fleet.open(upload.envelope, upload.objects)
        except UpdateRejected as error:
            return Error(FAILED, str(error))

    def _forget(self, message_ids: set[str]) -> None:
        for message_id in message_ids:
            self._sent.pop(message_id, None)
            if (upload := self._uploads.pop(message_id, None)) is not None:
                self._fleet.forget(upload.envelope)  # with what of it has come
        if message_ids:
            self._fleet.discard(message_ids)

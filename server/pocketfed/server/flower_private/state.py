"""Flower's link state in SQLite, without what only costs time here."""

import math
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from flwr.app import Message
from flwr.proto.message_pb2 import ObjectTree
from flwr.server.superlink.linkstate import SqlLinkState
from flwr.supercore.date import now
from flwr.supercore.state.schema.corestate_models import ObjectPushSession
from sqlalchemy import delete
from sqlalchemy.orm import Session

SWEEP = 1.0
"""Seconds between two looks for runs that show no life. Flower looks with every call of a phone."""


class State(SqlLinkState):
    """Flower's state for a crowd: one transaction at a time, and none that is of no use here.

    SQLite has one writer. Flower's threads would wait for it inside SQLite, asleep between two looks; those that are
    unlucky for five seconds fail with "database is locked", and their phones are answered HTTP 500.
    """

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._turn = threading.RLock()  # transactions nest
        self._swept = -math.inf

    @contextmanager
    def session(self) -> Iterator[Session]:
        with self._turn, super().session() as session:
            yield session

    def _cleanup_expired_task_tokens(self) -> None:
        with self._turn:
            if time.monotonic() < self._swept + SWEEP:
                return
            self._swept = time.monotonic()
            super()._cleanup_expired_task_tokens()

    def store_traffic(self, run_id: int, *, bytes_sent: int, bytes_recv: int) -> None:
        """Nobody reads it here; `/metrics` has its own."""

    def add_clientapp_runtime(self, run_id: int, runtime: float) -> None:
        """Nobody reads it here."""

    def store_message_and_object_tree(
        self, message: Message, object_tree: ObjectTree, session_id: str
    ) -> tuple[bool, list[str]]:
        """As Flower does, and forget the session of an answer of which nothing is to be pushed."""
        stored, missing = False, list[str]()
        try:
            stored, missing = super().store_message_and_object_tree(message, object_tree, session_id)
        finally:
            if not missing:
                self._cleanup_push_session(session_id, cleanup_messages=False)
        return stored, missing

    def forget_stale_sessions(self) -> None:
        """Of phones that stopped half-way. What they had pushed goes with their instruction."""
        with self.session() as session:
            session.execute(delete(ObjectPushSession).where(ObjectPushSession.expires_at < now()))

"""Flower's state under a crowd: nobody finds it locked, and nothing piles up."""

import logging
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from flwr.app import Message, RecordDict
from flwr.proto.message_pb2 import ObjectTree
from flwr.supercore import sql_mixin
from flwr.supercore.constant import SQLITE_PRAGMAS as PRAGMAS
from flwr.supercore.inflatable.inflatable_object import get_object_id, get_object_tree
from flwr.supercore.state.schema.corestate_models import ObjectPushSession
from sqlalchemy import func, select

from pocketfed.server.flower_private import MOST_UNDER_WAY, PLACE, Fleet, with_id

CROWD = 24


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """Flower logs every message, in colours."""
    logger = logging.getLogger("flwr")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    yield
    logger.setLevel(level)


def sessions(fleet: Fleet) -> int:
    with fleet._state.session() as session:
        return session.scalar(select(func.count()).select_from(ObjectPushSession)) or 0


def test_nobody_in_a_crowd_finds_the_database_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A transaction stays open for longer than SQLite waits; the others wait for as long as it takes."""
    patience = [
        ("busy_timeout", "50") if name == "busy_timeout" else (name, value) for name, value in PRAGMAS
    ]
    monkeypatch.setattr(sql_mixin, "SQLITE_PRAGMAS", patience)
    fleet = Fleet(tmp_path / "fleet.db", 1000)
    run = fleet.begin_run().run_id
    begun = threading.Event()

    def dawdle() -> None:
        with fleet._state.session():
            fleet._state.start_session(run)
            begun.set()
            time.sleep(0.5)

    with ThreadPoolExecutor(CROWD) as pool:
        slow = pool.submit(dawdle)
        begun.wait()
        assert len(set(pool.map(lambda _: fleet._state.start_session(run), range(CROWD)))) == CROWD
        slow.result()
    fleet.end_run()


def test_sessions_of_answers_that_nobody_wants_are_forgotten(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path / "fleet.db", 1000)
    run, state = fleet.begin_run().run_id, fleet._state
    node = fleet.register(b"a key", "")
    state.activate_node(node, 60)
    asked = Message(RecordDict(), node, "train", ttl=60)
    (sent,) = fleet.post([asked])
    fleet.discard({sent})
    reply = Message(RecordDict(), reply_to=asked)
    with_id(reply, reply.object_id)
    for _ in range(3):
        offer = state.store_message_and_object_tree(reply, get_object_tree(reply), state.start_session(run))
        assert offer == (False, [])
    assert sessions(fleet) == 0
    fleet.end_run()


def test_only_so_many_answers_are_under_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many phones offer theirs at once; a place is free when its answer is deleted, or stands still."""
    clock = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    objects = Fleet(tmp_path / "fleet.db", 1000)._objects
    moving = RecordDict().deflate()
    second = get_object_id(moving)
    first, late, later, *others = (f"{number:064x}" for number in range(MOST_UNDER_WAY + 1))
    answers = [first, second, *others, late, later]
    assert [objects.has_place(answer) for answer in answers] == [True] * MOST_UNDER_WAY + [False] * 2
    assert objects.has_place(first)  # it keeps its own
    objects.delete(first)
    assert objects.has_place(late)
    assert not objects.has_place(later)
    clock[0] += PLACE - 1
    objects.preregister(1, ObjectTree(object_id=second))
    objects.put(second, moving)
    clock[0] += 2
    assert objects.has_place(later)  # those that stood still have lost theirs
    assert all(objects.has_place(f"{number:064x}") for number in range(1000, 998 + MOST_UNDER_WAY))
    assert not objects.has_place(first)
    assert objects.has_place(second)

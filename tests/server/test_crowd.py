"""Flower's state under a crowd: nobody finds it locked, and nothing piles up."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.common.constant import SubStatus
from flwr.proto.message_pb2 import ObjectTree
from flwr.supercore import sql_mixin
from flwr.supercore.constant import SQLITE_PRAGMAS as PRAGMAS
from flwr.supercore.inflatable.inflatable_object import get_object_id, get_object_tree
from flwr.supercore.state.schema.corestate_models import ObjectPushSession
from sqlalchemy import func, select

from pocketfed.server.admission import MOST_UNDER_WAY, SMALL
from pocketfed.server.flower_private import Fleet, GivenUp, with_id
from pocketfed.server.flower_private import fleet as fleet_module

CROWD = 24


pytestmark = pytest.mark.usefixtures("quiet_flower")


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


def test_a_run_that_flower_has_given_up_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that sleeps for a minute: from then on Flower takes no message, and phones would be asked in vain."""
    monkeypatch.setattr(fleet_module, "HEARTBEAT", 0.01)
    fleet = Fleet(tmp_path / "fleet.db", 1000)
    run = fleet.begin_run()
    assert fleet.online() == []
    assert run.primary_task_id is not None
    fleet._state.finish_task(run.primary_task_id, SubStatus.FAILED, "no heartbeat")
    until = time.monotonic() + 10
    while fleet._fault is None and time.monotonic() < until:
        time.sleep(0.01)
    for call in (fleet.online, lambda: list(fleet.post([])), lambda: fleet.answers({"x"})):
        with pytest.raises(GivenUp, match="no life"):
            call()
    fleet.begin_run()
    assert fleet.online() == []  # another run is as good
    fleet.end_run()


def test_what_an_answer_pushes_counts_for_its_place(tmp_path: Path) -> None:
    """A status gives it back when all of it is here; weights do when they are deleted."""
    objects = Fleet(tmp_path / "fleet.db", 10 * SMALL).objects
    admission = objects.admission
    for node in range(2 * MOST_UNDER_WAY):
        status = RecordDict({"a": ConfigRecord({"node": node})})["a"].deflate()
        name = get_object_id(status)
        assert admission.take_place(node, name)
        objects.preregister(1, ObjectTree(object_id=name))
        objects.put(name, status)
    weights = RecordDict({"a": ConfigRecord({"weights": b"\1" * (2 * SMALL)})})["a"].deflate()
    name = get_object_id(weights)
    assert admission.take_place(1000, name)
    objects.preregister(1, ObjectTree(object_id=name))
    objects.put(name, weights)
    others = range(1001, 1000 + MOST_UNDER_WAY)
    assert all(admission.take_place(node, f"{node:064x}") for node in others)
    assert not admission.take_place(999, f"{999:064x}")
    objects.delete(name)
    assert admission.take_place(999, f"{999:064x}")

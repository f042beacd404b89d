"""Whatever a phone puts into an answer: no crash, no hang, bounded memory, and what is left over is freed."""

import hashlib
import json
import math
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import ConfigRecord, Error, Message, MessageType, RecordDict
from flwr.proto.message_pb2 import ObjectTree
from flwr.proto.recorddict_pb2 import ConfigRecord as ProtoRecord
from flwr.supercore.error import FlowerError
from hypothesis import given, settings
from hypothesis import strategies as st

from pocketfed.core.errors import UpdateRejected
from pocketfed.core.plan import PhoneStatus, Update
from pocketfed.core.wire import (
    STATUS,
    UPDATE,
    read_status,
    read_update,
    status_items,
    update_items,
)
from pocketfed.mobile_client.flower.objects import Object, object_id, write_object
from pocketfed.server.aggregators import Broadcast
from pocketfed.server.flower_private import Fleet, act_as_server, with_id
from pocketfed.server.guard import Guard
from pocketfed.server.messages import unpack_status, unpack_update
from pocketfed.server.roster import Roster
from pocketfed.server.terms import Terms, sample_cohort
from tests.server.loopback import LAYOUT, SIZE
from tests.server.scripted_grid import ScriptedGrid

BEGUN = Broadcast(np.ones(SIZE, np.float32), LAYOUT, 1)

whole = st.integers(-(2**63), 2**64 - 1)
scalar = st.one_of(whole, st.floats(), st.text(max_size=300), st.binary(max_size=64), st.booleans())
value = st.one_of(scalar, st.lists(scalar, max_size=4), st.none())

HONEST_UPDATE = update_items(Update(BEGUN.weights + 1, 3, {}, {}, 1, LAYOUT.digest))
HONEST_STATUS = status_items(PhoneStatus(3, layout=LAYOUT.digest))


def almost(honest: Any, more: list[str]) -> st.SearchStrategy[dict[str, Any]]:
    """An honest record with some items changed, added or left out."""
    keys = st.sampled_from([*honest, *more])
    changes = st.dictionaries(st.one_of(keys, st.text(max_size=8)), value, max_size=4)
    return st.builds(
        lambda changed, lost: {k: v for k, v in (honest | changed).items() if k not in lost},
        changes,
        st.sets(keys, max_size=1),
    )


@given(almost(HONEST_UPDATE, ["loss-photo", "seen-photo", "loss-sound", "seen-sound"]))
def test_an_update_is_read_or_refused_and_what_the_guard_lets_through_is_sane(items: dict[str, Any]) -> None:
    try:
        update = Guard().check(read_update(items), BEGUN)
    except (KeyError, TypeError, ValueError, UpdateRejected):
        return
    assert np.isfinite(update.weights).all()
    assert update.weights.shape == (SIZE,)
    assert 1 <= update.examples <= Guard().most_examples
    assert all(math.isfinite(loss) for loss in update.loss.values())
    assert all(0 <= seen <= update.examples for seen in update.seen.values())


@given(almost(HONEST_STATUS, ["captures-photo", "captures-sound"]))
def test_a_status_is_read_or_refused_and_what_is_kept_of_it_is_small(items: dict[str, Any]) -> None:
    try:
        status = read_status(items)
    except (KeyError, TypeError, ValueError):
        return
    assert len(json.dumps(status_items(status))) < 4000
    # A cohort can be drawn whatever the others' numbers are.
    wanted, cohort = sample_cohort(sorted({0, 7, status.number}), Terms(), seed=0, round_number=1)
    assert wanted == len(cohort)
    assert set(cohort) == {0, 7, status.number}


@pytest.mark.parametrize(
    "change", [{"phone": 2**63}, {"phone": -1}, {"app-version": "1" * 10**6}, {"layout": "x" * 10**6}]
)
def test_a_status_that_would_stop_or_fill_the_server_is_a_strangers(change: dict[str, Any]) -> None:
    """Numbers beyond int64 cannot be drawn from, and texts would be in every checkpoint."""
    act_as_server(1)
    asked = with_id(Message(RecordDict(), dst_node_id=5, message_type=MessageType.QUERY), "question")
    content = RecordDict({STATUS: ConfigRecord({**HONEST_STATUS, **change})})
    with pytest.raises(UpdateRejected) as refused:
        unpack_status(Message(content, reply_to=asked))
    assert len(str(refused.value)) < 500


def test_what_is_kept_of_strangers_is_short() -> None:
    grid = ScriptedGrid({5: lambda message: None})
    grid._name = lambda message: with_id(message, "question").metadata.message_id  # type: ignore[method-assign]
    roster = Roster()

    def push(messages: Any) -> Iterator[str]:
        for message in messages:
            grid._answers["question"] = Message(Error(2, "x" * 10**6), reply_to=with_id(message, "question"))
            yield "question"

    grid.push_messages = push  # type: ignore[method-assign]
    roster.refresh(grid)
    assert len(roster.strangers[5]) <= 300


class Box:
    """A fleet whose store takes objects without the network."""

    def __init__(self, folder: Path) -> None:
        self.fleet = Fleet(folder / "fleet.db", 2**20)
        self.fleet.begin_run()
        self.store = self.fleet.objects
        act_as_server(1)

    def put(self, objects: list[Object]) -> tuple[str, ...]:
        """The last is the root; children are what the objects say."""
        contents = {object_id(c): c for c in map(write_object, objects)}
        children = {object_id(write_object(o)): o.children for o in objects}
        named: set[str] = set()

        def tree(name: str) -> ObjectTree:
            if name in named:  # as deep as it is, but not as wide
                return ObjectTree(object_id=name)
            named.add(name)
            return ObjectTree(object_id=name, children=[tree(child) for child in children[name]])

        root = object_id(write_object(objects[-1]))
        self.store.preregister(1, tree(root))
        for name in named:
            self.store.put(name, contents[name])
        return self.store.below(root)

    def take(self, objects: list[Object]) -> Update:
        """What a server makes of an answer of these objects."""
        try:
            ids = self.put(objects)
            asked = with_id(Message(RecordDict(), dst_node_id=5, message_type=MessageType.TRAIN), "question")
            envelope = with_id(Message(RecordDict(), reply_to=asked), ids[0])
            content = self.fleet.open(envelope, ids)
            if isinstance(content, Error):
                return unpack_update(Message(content, reply_to=asked))
            return unpack_update(Message(content, reply_to=asked))
        finally:
            self.store.delete(object_id(write_object(objects[-1])))
            assert len(self.store) == 0  # nothing stays


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    made = Box(tmp_path_factory.mktemp("box"))
    yield made
    made.fleet.end_run()


CLASSES = ["Message", "RecordDict", "ConfigRecord", "MetricRecord", "ArrayRecord", "Array", "ArrayChunk"]
jsons = st.recursive(
    st.one_of(st.none(), st.booleans(), whole, st.floats(), st.text(max_size=9)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=9), inner, max_size=3)
    ),
    max_leaves=6,
)


@st.composite
def answers(draw: st.DrawFn) -> list[Object]:
    """Objects of any class and body whose ids are right, each of some of those before it; often nearly honest."""
    made: list[Object] = []
    for _ in range(draw(st.integers(1, 6))):
        ids = [object_id(write_object(other)) for other in made]
        children = tuple(draw(st.lists(st.sampled_from(ids), max_size=3, unique=True))) if ids else ()
        names = json.dumps({draw(st.sampled_from([UPDATE, STATUS, "x"])): child for child in children})
        body = draw(
            st.one_of(
                st.binary(max_size=200),
                jsons.map(lambda value: json.dumps(value).encode()),
                st.just(names.encode()),
                st.just(b""),
            )
        )
        made.append(Object(draw(st.sampled_from(CLASSES)), children, body))
    last = (object_id(write_object(made[-1])),)
    made.append(Object("Message", last, draw(st.one_of(st.just(b""), st.binary(max_size=100)))))
    return made


@settings(deadline=None)  # another test's work may come in between
@given(answers())
def test_objects_of_any_kind_are_an_update_or_refused(box: Box, objects: list[Object]) -> None:
    with suppress(UpdateRejected):
        assert isinstance(box.take(objects), Update)


def bomb() -> list[Object]:
    """One chunk of 100 kB that an array names 100 000 times: 10 GB."""
    chunk = Object("ArrayChunk", (), bytes(100_000))
    name = (object_id(write_object(chunk)),)
    body = {"dtype": "float32", "shape": [1], "stype": "numpy.ndarray", "arraychunk_ids": [0] * 100_000}
    array = Object("Array", name, json.dumps(body).encode())
    name = (object_id(write_object(array)),)
    record = Object("ArrayRecord", name, json.dumps({"a": name[0]}).encode())
    name = (object_id(write_object(record)),)
    content = Object("RecordDict", name, json.dumps({UPDATE: name[0]}).encode())
    return [chunk, array, record, content, Object("Message", (object_id(write_object(content)),), b"")]


def nested() -> list[Object]:
    content = Object("RecordDict", (), b"[" * 500_000)
    return [content, Object("Message", (object_id(write_object(content)),), b"")]


def wordy() -> list[Object]:
    content = Object("RecordDict", (), json.dumps({"x" * 500_000: "y" * 100_000}).encode())
    return [content, Object("Message", (object_id(write_object(content)),), b"")]


def long_chain() -> list[Object]:
    made = [Object("RecordDict", (), b"{}")]
    for _ in range(62):
        made.append(Object("RecordDict", (object_id(write_object(made[-1])),), b"{}"))
    return [*made, Object("Message", (object_id(write_object(made[-1])),), b"")]


def branches() -> list[Object]:
    """Each names the one before it twice: 2^30 ways from the root to the leaf."""
    made = [Object("RecordDict", (), b"{}")]
    for _ in range(30):
        made.append(Object("RecordDict", (object_id(write_object(made[-1])),) * 2, b"{}"))
    return [*made, Object("Message", (object_id(write_object(made[-1])),), b"")]


def answer_with(record: bytes) -> list[Object]:
    """An update that is this record."""
    inside = Object("ConfigRecord", (), record)
    name = object_id(write_object(inside))
    content = Object("RecordDict", (name,), json.dumps({UPDATE: name}).encode())
    return [inside, content, Object("Message", (object_id(write_object(content)),), b"")]


def many_items() -> list[Object]:
    """Each takes a dozen bytes, and some hundreds when it is decoded."""
    made = ProtoRecord()
    for number in range(70_000):
        made.items.add(key=f"{number:x}").value.sint64 = 1
    return answer_with(made.SerializeToString())


def long_list() -> list[Object]:
    made = ProtoRecord()
    made.items.add(key="a").value.sint_list.vals.extend([1] * 1_000_000)
    return answer_with(made.SerializeToString())


@pytest.mark.parametrize("make", [bomb, nested, wordy, long_chain, branches, many_items, long_list])
def test_bombs_are_refused_at_once_and_within_bounds(box: Box, make: Callable[[], list[Object]]) -> None:
    objects = make()
    tracemalloc.start()
    began = time.monotonic()
    with pytest.raises(UpdateRejected) as refused:
        box.take(objects)
    seconds = time.monotonic() - began
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert seconds < 2
    assert peak < 2**23
    assert len(str(refused.value)) < 500


def name(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def leaf(text: str) -> ObjectTree:
    return ObjectTree(object_id=name(text))


def test_a_tree_of_too_many_objects_is_refused(box: Box) -> None:
    tree = ObjectTree(object_id=name("root"), children=[leaf(str(i)) for i in range(64)])
    with pytest.raises(FlowerError, match="more than 64 objects"):
        box.store.preregister(1, tree)
    assert len(box.store) == 0


def test_a_tree_that_would_leave_objects_that_belong_to_nobody_is_refused(box: Box) -> None:
    twice = ObjectTree(
        object_id=name("root"),
        children=[leaf("a"), ObjectTree(object_id=name("a"), children=[leaf("orphan")])],
    )
    with pytest.raises(FlowerError, match="other children"):
        box.store.preregister(1, twice)
    with pytest.raises(FlowerError, match="no hash"):
        box.store.preregister(1, ObjectTree(object_id=name("root"), children=[leaf("a"), ObjectTree()]))
    assert len(box.store) == 0
    box.store.preregister(1, ObjectTree(object_id=name("root"), children=[leaf("a")]))
    with pytest.raises(FlowerError, match="other objects now"):
        box.store.preregister(1, ObjectTree(object_id=name("root"), children=[leaf("b")]))
    assert box.store.preregister(1, ObjectTree(object_id=name("root"), children=[leaf("a")]))  # a second try
    box.store.delete(name("root"))
    assert len(box.store) == 0


def test_an_answer_is_bounded_in_all_its_objects(box: Box) -> None:
    objects = [Object("ConfigRecord", (), bytes([i]) * 400_000) for i in range(3)]
    ids = tuple(object_id(write_object(one)) for one in objects)
    objects.append(Object("RecordDict", ids, b"{}"))
    try:
        with pytest.raises(ValueError, match="the most is 1048576"):
            box.put(objects)
    finally:
        box.store.delete(object_id(write_object(objects[-1])))
    assert len(box.store) == 0

"""Objects: what is written is read, Flower reads it too, and nothing else gets through."""

import math
from typing import Any

import pytest
from flwr.app import ConfigRecord
from hypothesis import given, settings
from hypothesis import strategies as st

from pocketfed.core.errors import MalformedObject
from pocketfed.mobile_client.flower import objects as o
from pocketfed.mobile_client.flower.descriptors import ObjectTree
from pocketfed.mobile_client.flower.fleet import tree_ids

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
value = (
    st.integers(-(2**63), 2**64 - 1)
    | st.booleans()
    | st.floats(allow_nan=False)
    | text
    | st.binary(max_size=50)
)
records = st.dictionaries(text, st.dictionaries(text, value, max_size=8), max_size=4)


@settings(deadline=None)
@given(records)
def test_records_come_back_and_are_flowers(content: dict[str, Any]) -> None:
    root, found = o.write_records(content)
    back = o.read_records(root, found)
    assert back == content
    assert {n: [type(v) for v in items.values()] for n, items in back.items()} == {
        n: [type(v) for v in items.values()] for n, items in content.items()
    }
    for items in content.values():
        theirs = ConfigRecord(items)
        assert found[theirs.object_id] == theirs.deflate()


def test_infinities_and_nan_travel() -> None:
    items = {"inf": math.inf, "nan": math.nan}
    back = o.read_records(*o.write_records({"x": items}))["x"]
    assert back["inf"] == math.inf
    assert math.isnan(float(back["nan"]))


@settings(deadline=None)
@given(st.binary(max_size=300), st.sampled_from([o.MESSAGE, o.RECORD_DICT, o.CONFIG_RECORD]))
def test_arbitrary_bytes_are_refused(content: bytes, kind: str) -> None:
    with pytest.raises(MalformedObject):
        o.read_object(content, kind)


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_arbitrary_bodies_are_refused_or_records(body: bytes) -> None:
    content = o.write_object(o.Object(o.CONFIG_RECORD, (), body))
    root = o.write_object(
        o.Object(o.RECORD_DICT, (o.object_id(content),), b'{"a": "%s"}' % o.object_id(content).encode())
    )
    for name, found in ((root, {root: b""}), (root, {})):
        with pytest.raises(MalformedObject):
            o.read_records(o.object_id(name), {o.object_id(k): v for k, v in found.items()})
    try:
        back = o.read_records(o.object_id(root), {o.object_id(root): root, o.object_id(content): content})
    except MalformedObject:
        return
    assert set(back) == {"a"}


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_arbitrary_dictionaries_are_refused_or_empty(body: bytes) -> None:
    root = o.write_object(o.Object(o.RECORD_DICT, (), body))
    try:
        assert o.read_records(o.object_id(root), {o.object_id(root): root}) == {}
    except MalformedObject:
        return


@settings(deadline=None)
@given(records.filter(bool), st.data())
def test_one_changed_byte_is_noticed(content: dict[str, Any], data: st.DataObject) -> None:
    root, found = o.write_records(content)
    name = data.draw(st.sampled_from(sorted(found)))
    position = data.draw(st.integers(0, len(found[name]) - 1))
    changed = bytearray(found[name])
    changed[position] ^= data.draw(st.integers(1, 255))
    with pytest.raises(MalformedObject):
        o.read_records(root, {**found, name: bytes(changed)})


@pytest.mark.parametrize("body", [b"[" * 16_000, b'{"a":' * 3000, b"9" * 16_000, b" " * 20_000])
def test_hostile_dictionaries_are_refused(body: bytes) -> None:
    root = o.write_object(o.Object(o.RECORD_DICT, (), body))
    with pytest.raises(MalformedObject):
        o.read_records(o.object_id(root), {o.object_id(root): root})


def test_trees_are_walked_children_first_and_bounded() -> None:
    leaves = [ObjectTree(object_id=str(i)) for i in range(5)]
    tree = ObjectTree(object_id="root", children=[ObjectTree(object_id="dict", children=[*leaves, *leaves])])
    ids = tree_ids(tree, 10)
    assert ids[-1] == "root"
    assert sorted(ids) == ["0", "1", "2", "3", "4", "dict", "root"]
    assert len(tree_ids(tree, 3)) == 4

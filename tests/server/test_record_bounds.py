"""Records are refused before they are decoded if they could be more than they seem."""

import time
from contextlib import suppress
from typing import Any

import pytest
from flwr.app import ConfigRecord
from flwr.proto.recorddict_pb2 import ConfigRecord as Written
from hypothesis import given
from hypothesis import strategies as st

from pocketfed.server.record_bounds import LONGEST_KEY, MOST_ITEMS, check_record


def written(items: dict[str, Any]) -> bytes:
    """As phones write it: what is behind the head of an object."""
    return ConfigRecord(items).deflate().partition(b"\0")[2]


def check(body: bytes) -> None:
    check_record(memoryview(body))


scalar = st.one_of(
    st.integers(-(2**63), 2**64 - 1),
    st.floats(),
    st.text(max_size=300),
    st.binary(max_size=300),
    st.booleans(),
)


@given(st.dictionaries(st.text(max_size=LONGEST_KEY // 4), scalar, max_size=MOST_ITEMS))
def test_records_of_few_scalars_pass(items: dict[str, Any]) -> None:
    check(written(items))


@pytest.mark.parametrize("value", [[1], [1.5], [True], ["a"], [b"a"], [2**64 - 1], [1] * 1000])
def test_lists_do_not(value: Any) -> None:
    with pytest.raises(ValueError, match="list"):
        check(written({"a": 1, "b": value}))


def test_nor_do_many_items_nor_long_keys() -> None:
    with pytest.raises(ValueError, match=f"more than {MOST_ITEMS} items"):
        check(written({str(number): number for number in range(MOST_ITEMS + 1)}))
    with pytest.raises(ValueError, match=f"key of {LONGEST_KEY + 1} bytes"):
        check(written({"k" * (LONGEST_KEY + 1): 1}))


@pytest.mark.parametrize(
    "body",
    [
        b"\x10\x01",  # a field that records have not
        b"\x0a\x02\x0a\x00" * (MOST_ITEMS + 1),
        b"\x0a\x06" + b"\x0a\x00" * 3,  # a key three times
        b"\x0a\x04\x12\x00\x12\x00",  # a value twice
        b"\x0a\x06\x12\x04\x10\x01\x10\x02",  # a number twice
        b"\x0a\x02\x18\x01",
        b"\x0a\x7f",
        b"\x0a",
        b"\xff" * 20,
        b"\x0b",
        b"\x0a\x09\x12\x07\x09\x00\x00",
    ],
)
def test_what_no_phone_writes_is_refused(body: bytes) -> None:
    with pytest.raises(ValueError, match="record"):
        check(body)


@given(st.binary(max_size=200))
def test_any_bytes_pass_or_are_refused_and_what_passes_is_small(body: bytes) -> None:
    with suppress(ValueError):
        check(body)
        assert len(Written.FromString(body).items) <= MOST_ITEMS


@pytest.mark.parametrize("piece", [b"\x0a\x00", b"\x0a\x02\x0a\x00", b"\x80"])
def test_a_large_body_takes_no_time(piece: bytes) -> None:
    began = time.process_time()
    with pytest.raises(ValueError, match="record"):
        check(piece * 2_000_000)
    assert time.process_time() - began < 0.1

"""What a phone remembers: the newest of earlier rounds, whole, and never more than two of them."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pocketfed.core.atomic import write_atomically
from pocketfed.mobile_client.phone_memory import PhoneMemory, Vectors


def vectors(value: float) -> Vectors:
    return {"a": np.full(3, value, dtype=np.float32), "b": np.full(1, value, dtype=np.float32)}


def value_of(found: Vectors) -> float | None:
    return float(found["a"][0]) if found else None


def test_the_newest_of_earlier_rounds_is_recalled_by_another_process_too(tmp_path: Path) -> None:
    memory = PhoneMemory(tmp_path / "memory")
    assert memory.recall("run", 5) == {}
    assert not memory.folder.exists()
    for number in (2, 7):
        memory.keep("run", number, vectors(number))
    for before, expected in ((2, None), (3, 2), (7, 2), (8, 7), (99, 7)):
        assert value_of(PhoneMemory(memory.folder).recall("run", before)) == expected
    again = memory.recall("run", 99)
    assert {name: vector.tolist() for name, vector in again.items()} == {"a": [7, 7, 7], "b": [7]}


def test_a_round_that_is_repeated_begins_with_what_it_began_with(tmp_path: Path) -> None:
    memory = PhoneMemory(tmp_path)
    for number in (1, 2, 3):
        memory.keep("run", number, vectors(number))
    memory.keep("run", 3, vectors(30))
    assert value_of(memory.recall("run", 3)) == 2
    assert value_of(memory.recall("run", 4)) == 30


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=12))
def test_disk_use_is_bounded_and_nothing_of_a_later_round_stays(rounds: list[int]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        memory, kept = PhoneMemory(Path(folder)), set[int]()
        for number in rounds:
            memory.keep("run", number, vectors(number))
            earlier = {n for n in kept if n < number}
            kept = {number} | ({max(earlier)} if earlier else set())
            names = sorted(path.name for path in Path(folder).iterdir())
            assert names == [f"round-{n:05d}.safetensors" for n in sorted(kept)]


def test_another_run_is_not_recalled(tmp_path: Path) -> None:
    memory = PhoneMemory(tmp_path)
    memory.keep("one", 1, vectors(1))
    assert memory.recall("other", 2) == {}


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "text"])
def test_a_damaged_memory_is_said_and_the_one_before_is_used(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    memory = PhoneMemory(tmp_path)
    for number in (1, 2):
        memory.keep("run", number, vectors(number))
    path = tmp_path / "round-00002.safetensors"
    content = path.read_bytes()
    flipped = content[:-1] + bytes([content[-1] ^ 1])
    path.write_bytes({"cut": content[:-3], "flipped": flipped, "empty": b"", "text": b"hello" * 9}[damage])
    assert value_of(memory.recall("run", 3)) == 1
    assert "round-00002" in caplog.text


def test_what_a_killed_process_left_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".round-00001.safetensors.abc").write_bytes(b"half")
    memory = PhoneMemory(tmp_path)
    memory.keep("run", 1, vectors(1))
    assert [path.name for path in tmp_path.iterdir()] == ["round-00001.safetensors"]

    def full(path: Path, content: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pocketfed.mobile_client.phone_memory.write_atomically", full)
    with pytest.raises(OSError, match="No space"):
        memory.keep("run", 2, vectors(2))
    monkeypatch.setattr("pocketfed.mobile_client.phone_memory.write_atomically", write_atomically)
    assert value_of(memory.recall("run", 3)) == 1

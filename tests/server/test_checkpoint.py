"""Checkpoints come back whole, and a bad one is named."""

import dataclasses
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_torch

from pocketfed.core.errors import RunFolderError
from pocketfed.core.layout import Layout, Role, Slice
from pocketfed.core.modality import Modality
from pocketfed.core.plan import PhoneStatus
from pocketfed.server.checkpoint import (
    DAMAGED,
    Checkpoint,
    load_checkpoint,
    newest,
    path_of,
    prune,
    recover,
    save_checkpoint,
    saved_rounds,
    set_aside,
)

LAYOUT = Layout((Slice("backbone.w", (2, 3), Role.BACKBONE, 0),))

MEMORY = {"momentum": np.linspace(0, 2, 5, dtype=np.float32)}


def checkpoint(round_number: int) -> Checkpoint:
    weights = np.linspace(0, 1, 6, dtype=np.float32)
    return Checkpoint(round_number, 42, weights, LAYOUT, {"round": round_number, "loss": {"photo": 1.25}})


def test_round_trip(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path / "checkpoints", checkpoint(3))
    again = load_checkpoint(path)
    assert np.array_equal(again.weights, checkpoint(3).weights)
    assert (again.round, again.seed, again.layout, again.record) == (3, 42, LAYOUT, checkpoint(3).record)
    assert again.memory == {}


def test_what_a_rule_keeps_comes_back(tmp_path: Path) -> None:
    memory = {"first": np.arange(6, dtype=np.float32), "second": np.ones((), np.float32)}
    again = load_checkpoint(save_checkpoint(tmp_path, dataclasses.replace(checkpoint(3), memory=memory)))
    assert again.model.memory.keys() == memory.keys()
    assert all(np.array_equal(again.model.memory[name], kept) for name, kept in memory.items())


def test_the_newest_is_found_by_number(tmp_path: Path) -> None:
    assert newest(tmp_path) is None
    for number in (2, 10, 9):
        save_checkpoint(tmp_path, checkpoint(number))
    (tmp_path / ".round-00011.safetensors.tmp").write_bytes(b"")
    assert newest(tmp_path) == path_of(tmp_path, 10)


@given(st.data())
def test_no_bit_changes_unnoticed(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Either the file is refused, or it says what it said."""
    folder = tmp_path_factory.mktemp("flip")
    statuses = {2**63 + 1: PhoneStatus(3, {Modality.PHOTO: 2}, 7, True, "1.2", "ab")}
    whole = checkpoint(3)
    path = save_checkpoint(folder, Checkpoint(3, 42, whole.weights, LAYOUT, whole.record, statuses, MEMORY))
    content = bytearray(path.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(content)
    try:
        again = load_checkpoint(path)
    except RunFolderError:
        return
    assert np.array_equal(again.weights, whole.weights)
    assert (again.round, again.seed, again.layout, again.record) == (3, 42, LAYOUT, whole.record)
    assert again.statuses == statuses
    assert np.array_equal(again.memory["momentum"], MEMORY["momentum"])


def test_a_file_without_a_hash_is_an_older_one(tmp_path: Path) -> None:
    path = path_of(tmp_path, 1)
    metadata = {
        "format": "1",
        "round": "1",
        "seed": "7",
        "layout": LAYOUT.to_json(),
        "record": '{"round": 1}',
    }
    save_file({"weights": np.ones(6, dtype=np.float32)}, path, metadata=metadata)
    assert load_checkpoint(path).seed == 7


def test_the_newest_that_is_whole_is_recovered_and_the_others_are_named(tmp_path: Path) -> None:
    assert recover(tmp_path) == (None, {})
    for number in range(4):
        save_checkpoint(tmp_path, checkpoint(number))
    for number in (2, 3):
        path_of(tmp_path, number).write_bytes(b"")
    found, damaged = recover(tmp_path)
    assert found is not None
    assert found.round == 1
    assert list(damaged) == [path_of(tmp_path, 3), path_of(tmp_path, 2)]
    assert all(str(path) in problem for path, problem in damaged.items())
    for number in (0, 1):
        path_of(tmp_path, number).write_bytes(b"")
    with pytest.raises(RunFolderError, match=r"no checkpoint .*round-00003"):
        recover(tmp_path)


def test_pruning_keeps_the_untrained_one_and_the_last(tmp_path: Path) -> None:
    for number in range(7):
        save_checkpoint(tmp_path, checkpoint(number))
    (tmp_path / ".round-00007.safetensors.killed").write_bytes(b"half of it")
    prune(tmp_path, 3)
    assert [path.stem for path in saved_rounds(tmp_path)] == [f"round-0000{n}" for n in (0, 4, 5, 6)]
    assert not list(tmp_path.glob(".*"))
    prune(tmp_path, 9)
    assert len(saved_rounds(tmp_path)) == 4


def numbers(folder: Path, ending: str = "") -> list[int]:
    return [int(path.name[6:11]) for path in saved_rounds(folder, ending)]


def test_what_is_set_aside_stands_for_no_round_and_is_bounded_too(tmp_path: Path) -> None:
    for number in range(8):
        save_checkpoint(tmp_path, checkpoint(number))
    for number in (5, 6, 7):
        path_of(tmp_path, number).write_bytes(b"%d" % number)
    told = set_aside(recover(tmp_path)[1])
    assert ["round-00007.safetensors.damaged" in told[0], "round-00005.safetensors.damaged" in told[2]] == [
        True
    ] * 2
    assert (numbers(tmp_path), numbers(tmp_path, DAMAGED)) == ([0, 1, 2, 3, 4], [5, 6, 7])
    assert recover(tmp_path)[1] == {}
    prune(tmp_path, 1)  # as where the disk is full
    assert (numbers(tmp_path), numbers(tmp_path, DAMAGED)) == ([0, 4], [7])
    save_checkpoint(tmp_path, checkpoint(5))
    prune(tmp_path, 1)
    assert numbers(tmp_path) == [0, 5]
    path_of(tmp_path, 5).write_bytes(b"5")
    set_aside(recover(tmp_path)[1])
    assert numbers(tmp_path, DAMAGED) == [5, 7]


def test_a_process_that_is_killed_while_it_sets_aside_goes_on_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(4):
        save_checkpoint(tmp_path, checkpoint(number))
    for number in (2, 3):
        path_of(tmp_path, number).write_bytes(b"")

    def refusing(source: Path, target: Path) -> None:
        if source == path_of(tmp_path, 2):
            raise OSError(30, "Read-only file system")
        source.rename(target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", refusing)
        with pytest.raises(RunFolderError, match=r"round-00002.* cannot be renamed \(Read-only"):
            set_aside(recover(tmp_path)[1])
    found, damaged = recover(tmp_path)
    assert found is not None
    assert (found.round, list(damaged)) == (1, [path_of(tmp_path, 2)])
    set_aside(damaged)
    assert numbers(tmp_path) == [0, 1]


@pytest.mark.parametrize("content", [b"", b"\x08\x00\x00\x00\x00\x00\x00\x00nonsense"])
def test_a_damaged_file_is_named(tmp_path: Path, content: bytes) -> None:
    path = path_of(tmp_path, 1)
    path.write_bytes(content)
    with pytest.raises(RunFolderError, match="round-00001"):
        load_checkpoint(path)


def test_another_format_is_refused(tmp_path: Path) -> None:
    path = path_of(tmp_path, 1)
    save_file({"weights": np.zeros(6, dtype=np.float32)}, path, metadata={"format": "9"})
    with pytest.raises(RunFolderError, match="format '9'"):
        load_checkpoint(path)


def test_weights_must_fit_the_layout(tmp_path: Path) -> None:
    path = path_of(tmp_path, 1)
    metadata = {
        "format": "1",
        "round": "1",
        "seed": "0",
        "layout": LAYOUT.to_json(),
        "record": '{"round": 1}',
    }
    save_file({"weights": np.zeros(5, dtype=np.float32)}, path, metadata=metadata)
    with pytest.raises(RunFolderError, match="6 float32 weights"):
        load_checkpoint(path)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("layout", None),
        ("layout", "{"),
        ("layout", '[{"name": "backbone.w", "shape": [Infinity], "role": "backbone", "offset": 0}]'),
        ("round", None),
        ("round", "one"),
        ("round", "-1"),
        ("seed", None),
        ("seed", "0.5"),
        ("record", None),
        ("record", "{"),
        ("record", "[]"),
        ("record", "{}"),
        ("record", '{"round": 2}'),
        ("record", "[" * 100_000),
    ],
)
def test_metadata_that_is_missing_or_malformed_is_refused(
    tmp_path: Path, key: str, value: str | None
) -> None:
    path = path_of(tmp_path, 1)
    whole: dict[str, Any] = {"format": "1", "round": "1", "seed": "0", "layout": LAYOUT.to_json()}
    whole |= {"record": '{"round": 1}'} | {key: value}
    metadata = {name: text for name, text in whole.items() if text is not None}
    save_file({"weights": np.zeros(6, dtype=np.float32)}, path, metadata=metadata)
    with pytest.raises(RunFolderError, match=r"round-00001\.safetensors does not describe a round"):
        load_checkpoint(path)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float8_e4m3fn])
def test_weights_that_numpy_does_not_know_are_refused(tmp_path: Path, dtype: torch.dtype) -> None:
    path = path_of(tmp_path, 1)
    save_torch({"weights": torch.zeros(6).to(dtype)}, path, metadata={"format": "1"})
    with pytest.raises(RunFolderError, match=r"round-00001.* cannot be read"):
        load_checkpoint(path)

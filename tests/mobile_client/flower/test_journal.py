"""The journal: one entry, whole or not there, through crashes and damage."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pocketfed.core.errors import HomeError
from pocketfed.mobile_client.flower.journal import Entry, Journal, State, _read, _write

ENTRY = Entry(State.BUILT, b"head", (b"one", b"", b"three"))


@pytest.mark.parametrize("state", State)
def test_an_entry_comes_back(state: State, tmp_path: Path) -> None:
    entry = Entry(state, ENTRY.head, ENTRY.objects)
    Journal(tmp_path / "j").save(entry)
    assert Journal(tmp_path / "j").load() == entry
    Journal(tmp_path / "j").clear()
    assert Journal(tmp_path / "j").load() is None
    assert list((tmp_path / "j").iterdir()) == []


def test_there_is_one_entry_and_leftovers_of_crashes_go(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    for state in State:
        journal.save(Entry(state, b"x"))
        assert [path.name for path in tmp_path.iterdir()] == [state]
    # a crash after writing the next state, before removing the one before
    (tmp_path / "received").write_bytes(_write([b"old"]))
    (tmp_path / ".built.abc").write_bytes(b"half")
    assert Journal(tmp_path).load() == Entry(State.ACCEPTED, b"x")
    Journal(tmp_path).clear()
    assert list(tmp_path.iterdir()) == []


def test_acceptance_is_noted_and_noted_again(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    entry = journal.accept(journal.save(ENTRY))
    assert entry == Entry(State.ACCEPTED, ENTRY.head, ENTRY.objects)
    assert journal.accept(entry) == entry
    assert journal.load() == entry


def test_tries_are_counted_per_message(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.save(Entry(State.PULLED, b"a"))
    assert journal.tries == 0
    journal.tries = 2
    journal.save(Entry(State.RECEIVED, b"a"))
    assert Journal(tmp_path).tries == 2
    journal.save(Entry(State.PULLED, b"b"))
    assert journal.tries == 0
    (tmp_path / "tries").write_bytes(b"many")
    assert journal.tries == 0


def test_what_the_disk_refuses_is_kept_in_memory_and_written_by_the_next_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, content: bytes) -> None:
        raise OSError(28, "No space left on device")

    journal = Journal(tmp_path)
    journal.save(Entry(State.RECEIVED, b"asked"))
    with monkeypatch.context() as patch:
        patch.setattr("pocketfed.mobile_client.flower.journal.write_atomically", full)
        for attempt in (lambda: journal.save(ENTRY), journal.load, lambda: setattr(journal, "tries", 1)):
            with pytest.raises(HomeError, match=f"{tmp_path} cannot be written .No space left"):
                attempt()
    assert Journal(tmp_path).load() == Entry(State.RECEIVED, b"asked")  # to which a crash would come back
    assert journal.load() == ENTRY
    assert Journal(tmp_path).load() == ENTRY
    with monkeypatch.context() as patch:
        patch.setattr("pocketfed.mobile_client.flower.journal.write_atomically", full)
        with pytest.raises(HomeError):
            journal.save(ENTRY)
    journal.clear()
    assert journal.load() is None


@settings(deadline=None)
@given(st.data())
def test_damage_is_noticed(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    path = tmp_path_factory.mktemp("journal") / "built"
    content = bytearray(_write([ENTRY.head, *ENTRY.objects]))
    position = data.draw(st.integers(0, len(content) - 1))
    content[position] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content)
    try:
        assert _read(path) == (ENTRY.head, ENTRY.objects)  # a space within the first line may change
    except (OSError, ValueError, KeyError, TypeError):
        journal = Journal(path.parent)
        assert journal.load() is None
        assert (path.parent / "damaged").exists()


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_arbitrary_files_are_set_aside(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    folder = tmp_path_factory.mktemp("journal")
    (folder / "pulled").write_bytes(content)
    assert Journal(folder).load() is None
    assert (folder / "damaged").read_bytes() == content

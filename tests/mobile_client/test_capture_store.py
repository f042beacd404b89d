"""A folder that grows, shrinks and holds anything, and what a round trains on."""

import json
import logging
import os
import shutil
import sqlite3
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from errno import EIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray
from PIL import Image

from pocketfed.core.captures import Captures, Split, load_photos, load_sounds
from pocketfed.core.captures.decode import decode_photo
from pocketfed.core.errors import CaptureError, Declined
from pocketfed.core.learning_task import LearningTask
from pocketfed.core.modality import Modality
from pocketfed.core.program_spec import Input, ProgramSpec, program_spec
from pocketfed.mobile_client import capture_files, capture_store, decoded
from pocketfed.mobile_client.capture_store import CaptureStore
from pocketfed.mobile_client.decoded import DecodedSource
from pocketfed.mobile_client.phone import train
from tests.mobile_client.test_phone import instruction, phone_with

SIDE, SAMPLES = 16, 4000
SECONDS = SAMPLES / 16_000
PHOTO_BYTES, SOUND_BYTES = SIDE * SIDE * 3, SAMPLES * 4
INPUTS = {Modality.PHOTO: Input((SIDE, SIDE, 3), "uint8", 1), Modality.SOUND: Input((SAMPLES,), "float32", 1)}
SPEC = ProgramSpec(weights=1, state=1, batch=6, inputs=INPUTS, mixed=False, layout="")
START = 1_700_000_000
"""Seconds since 1970, when the tests begin."""


@dataclass
class Clock:
    """The two clocks of a store, moved by hand."""

    now: float = 0.0

    def wall(self) -> float:
        return START + self.now

    def steady(self) -> float:
        return self.now


@dataclass
class Site:
    """A folder of captures, and stores that look at it. Files are an hour old unless a test says otherwise."""

    folder: Path
    home: Path
    clock: Clock = field(default_factory=Clock)
    made: int = 0

    def store(
        self, quota_bytes: int = 10_000_000, spec: ProgramSpec = SPEC, own: bool = False
    ) -> CaptureStore:
        return CaptureStore(
            self.folder, spec, self.home, quota_bytes, own=own, wall=self.clock.wall, steady=self.clock.steady
        )

    def photo(self, name: str, age: float | None = None, size: int = 20) -> Path:
        rng = np.random.default_rng(self.made)
        path = self._place(name)
        Image.fromarray(rng.integers(0, 256, (size, size + 4, 3), dtype=np.uint8)).save(path)
        return self._date(path, age)

    def sound(self, name: str, age: float | None = None, windows: float = 1.0, rate: int = 16_000) -> Path:
        rng = np.random.default_rng(self.made)
        path = self._place(name)
        pcm = 0.1 * rng.standard_normal((round(SECONDS * rate * windows), 2))
        soundfile.write(path, pcm, rate, **({"format": "OGG"} if name.endswith("ogg") else {}))
        return self._date(path, age)

    def raw(self, name: str, content: bytes, age: float | None = None) -> Path:
        path = self._place(name)
        path.write_bytes(content)
        return self._date(path, age)

    def _place(self, name: str) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def _date(self, path: Path, age: float | None) -> Path:
        """`age` in seconds; by default, later made is later modified."""
        self.made += 1
        seconds = START - 3600 + self.made if age is None else self.clock.wall() - age
        os.utime(path, (seconds, seconds))
        return path


@pytest.fixture
def site(tmp_path: Path) -> Site:
    (tmp_path / "captures").mkdir()
    return Site(tmp_path / "captures", tmp_path / "home")


@pytest.fixture
def decodes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that are decoded."""
    names: list[str] = []
    original = capture_files.read_captures

    def counting(path: Path, modality: Modality, wanted: Input) -> NDArray[Any]:
        names.append(path.name)
        return original(path, modality, wanted)

    monkeypatch.setattr(capture_store, "read_captures", counting)
    return names


def everything(source: DecodedSource) -> NDArray[Any]:
    return source[np.arange(len(source))]


def scanned(store: CaptureStore) -> Mapping[Modality, DecodedSource]:
    store.scan()
    return store.snapshot()


def counts(store: CaptureStore) -> dict[str, int]:
    return {modality.value: count for modality, count in store.status().captures.items()}


def as_loaded(split: Split) -> NDArray[Any]:
    """Both sides of a split in the order of the files."""
    sides: tuple[Captures, Captures] = (split.train, split.test)
    clips = np.concatenate([side.clips for side in sides])
    return np.concatenate([side.items for side in sides])[np.argsort(clips, kind="stable")]


def test_a_phone_sees_what_the_simulator_sees(site: Site) -> None:
    """Every format, names that sort differently as bytes and as paths, several windows, another rate, a silent tail."""
    for name in ("z.png", "a/z.JPG", "a-b/a.jpeg", "a/b/c.webp", "a.png", "ä/1.png", "B.png"):
        site.photo(name)
    for name, windows in (("s/1.wav", 3.4), ("s/2.flac", 0.3), ("3.ogg", 2.6), ("s-t/1.WAV", 1.0)):
        site.sound(name, windows=windows, rate=16_000 if name.startswith("s/") else 22_050)
    site.raw("notes.txt", b"not a capture")
    seen = scanned(site.store())
    photos, sounds = everything(seen[Modality.PHOTO]), everything(seen[Modality.SOUND])
    assert [photos.dtype.name, sounds.dtype.name] == ["uint8", "float32"]
    np.testing.assert_array_equal(photos, as_loaded(load_photos(site.folder, SIDE)))
    np.testing.assert_array_equal(sounds, as_loaded(load_sounds(site.folder, SECONDS)))
    assert len(photos) == 7
    assert len(sounds) == 3 + 1 + 3 + 1


def test_batches_are_the_callers_own_and_in_the_order_asked_for(site: Site) -> None:
    for index in range(5):
        site.photo(f"{index}.png")
    photos = scanned(site.store())[Modality.PHOTO]
    whole = everything(photos)
    batch = photos[np.asarray([4, 0, 0])]
    np.testing.assert_array_equal(batch, whole[[4, 0, 0]])
    batch[:] = 0
    np.testing.assert_array_equal(everything(photos), whole)


def test_a_restart_decodes_nothing_twice(site: Site, decodes: list[str]) -> None:
    for index in range(3):
        site.photo(f"{index}.png")
    site.sound("0.wav")
    site.raw("bad.png", b"garbage")
    first = everything(scanned(site.store())[Modality.PHOTO])
    assert sorted(decodes) == ["0.png", "0.wav", "1.png", "2.png", "bad.png"]
    store = site.store()
    assert counts(store) == {"photo": 3, "sound": 1}
    again = everything(scanned(store)[Modality.PHOTO])
    assert len(decodes) == 5
    np.testing.assert_array_equal(first, again)


def test_the_folder_grows_and_a_round_does_not_notice(site: Site, decodes: list[str]) -> None:
    site.photo("b.png")
    store = site.store()
    before = scanned(store)[Modality.PHOTO]
    whole = everything(before)
    site.photo("a.png")
    after = scanned(store)[Modality.PHOTO]
    assert (len(before), len(after)) == (1, 2)
    np.testing.assert_array_equal(everything(before), whole)
    np.testing.assert_array_equal(everything(after)[1:], whole)
    assert decodes == ["b.png", "a.png"]


def test_the_same_files_give_the_same_order_however_they_came(site: Site, tmp_path: Path) -> None:
    for name in ("c.png", "a.png", "b.png"):
        site.photo(name)
        slow = scanned(site.store())
    fast = scanned(Site(site.folder, tmp_path / "other").store())
    np.testing.assert_array_equal(everything(slow[Modality.PHOTO]), everything(fast[Modality.PHOTO]))


def test_a_file_being_written_is_not_read(site: Site, decodes: list[str]) -> None:
    store = site.store()
    site.photo("0.png", age=1.0)
    store.scan()
    assert decodes == []
    assert store.status().unfinished == 1
    for _ in range(3):  # somebody goes on writing
        site.clock.now += 1.5
        site.photo("0.png", age=0.5)
        store.scan()
    assert decodes == []
    site.clock.now += 2.0
    assert len(scanned(store)[Modality.PHOTO]) == 1
    assert store.status().unfinished == 0


def test_a_file_from_the_future_is_finished_when_it_has_not_changed_between_looks(site: Site) -> None:
    store = site.store()
    site.photo("0.png", age=-1e6)
    assert scanned(store) == {}
    site.clock.now += 1.0
    assert scanned(store) == {}
    site.clock.now += 1.0
    assert len(scanned(store)[Modality.PHOTO]) == 1
    site.clock.now -= 10_000  # the clock is set back; what is known stays
    assert len(scanned(site.store())[Modality.PHOTO]) == 1


def test_a_file_that_changes_while_it_is_decoded_waits(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    path = site.photo("0.png")
    original = capture_files.read_captures

    def touched(path: Path, modality: Modality, wanted: Input) -> NDArray[Any]:
        read = original(path, modality, wanted)
        site.photo(path.name)
        return read

    store = site.store()
    with monkeypatch.context() as patch:
        patch.setattr(capture_store, "read_captures", touched)
        assert scanned(store) == {}
    assert store.status().unfinished == 1
    np.testing.assert_array_equal(everything(scanned(store)[Modality.PHOTO])[0], decode_photo(path, SIDE))


def test_a_capture_that_is_changed_is_decoded_anew(site: Site) -> None:
    site.photo("0.png")
    store = site.store()
    old = everything(scanned(store)[Modality.PHOTO])
    site.photo("0.png")
    new = everything(scanned(store)[Modality.PHOTO])
    assert (len(new), np.array_equal(old, new)) == (1, False)


@pytest.mark.parametrize(
    "name", ["a.jpg.part", ".a.jpg", ".pending-1-a.jpg", ".thumbnails/a.jpg", "a.tmp", "a.jpg~", "a.gif"]
)
def test_temporary_hidden_and_foreign_files_are_ignored(site: Site, decodes: list[str], name: str) -> None:
    site.raw(name, b"whatever")
    store = site.store()
    assert scanned(store) == {}
    assert decodes == []
    status = store.status()
    assert (status.unfinished, status.quarantined, status.problem) == (0, (), None)


def test_what_is_no_regular_file_is_ignored(site: Site) -> None:
    os.mkfifo(site.folder / "pipe.wav")
    (site.folder / "folder.png").mkdir()
    (site.folder / "loop").symlink_to(site.folder)
    (site.folder / "nowhere.png").symlink_to(site.folder / "gone.png")
    site.photo("folder.png/real.png")
    assert len(scanned(site.store())[Modality.PHOTO]) == 1


def test_the_store_does_not_look_at_its_own_home(site: Site) -> None:
    inside = Site(site.folder, site.folder / "home", site.clock)
    inside.photo("home/0.png")
    inside.photo("0.png")
    assert len(scanned(inside.store())[Modality.PHOTO]) == 1


def test_names_that_are_no_text_are_names(site: Site) -> None:
    name = os.fsdecode(b"\xff\xfe.png")
    try:
        site.photo(name)
    except OSError:
        pytest.skip("this file system takes names of text only")
    site.raw(os.fsdecode(b"\xff.wav"), b"garbage")
    assert len(scanned(site.store())[Modality.PHOTO]) == 1
    store = site.store()
    store.scan()
    assert [entry.file.name for entry in store.status().quarantined] == [os.fsdecode(b"\xff.wav")]


def test_unreadable_files_are_quarantined_with_a_reason_and_left_where_they_are(
    site: Site, decodes: list[str]
) -> None:
    whole = site.photo("whole.jpg", size=200).read_bytes()
    bad = {
        "empty.png": b"",
        "garbage.jpg": b"\xff\xd8\xff garbage",
        "half.jpg": whole[: len(whole) // 2],
        "text.wav": b"hello",
        "riff.wav": b"RIFF\x24\x00\x00\x00WAVEfmt ",
    }
    for name, content in bad.items():
        site.raw(f"new/{name}", content)
    soundfile.write(site.folder / "silent.wav", np.zeros(0, dtype=np.float32), 16_000)
    site._date(site.folder / "silent.wav", None)
    store = site.store()
    assert len(scanned(store)[Modality.PHOTO]) == 1
    reasons = {entry.file.name: entry.reason for entry in store.status().quarantined}
    assert reasons == {
        "new/empty.png": "is damaged or not a photo",
        "new/garbage.jpg": "is damaged or not a photo",
        "new/half.jpg": "is damaged or not a photo",
        "new/text.wav": "is damaged or not a sound",
        "new/riff.wav": "is damaged or not a sound",
        "silent.wav": "is empty",
    }
    lines = [json.loads(line) for line in (site.home / "quarantine.jsonl").read_text().splitlines()]
    assert {line["name"]: line["reason"] for line in lines} == reasons
    assert {line["name"]: line["size"] for line in lines}["new/text.wav"] == 5
    assert all((site.folder / name).exists() for name in reasons)
    tried = len(decodes)
    store.scan()
    site.store().scan()
    assert len(decodes) == tried


def test_a_quarantined_file_is_tried_again_when_it_changes_and_forgotten_when_it_goes(site: Site) -> None:
    bad, gone = site.raw("0.png", b"garbage"), site.raw("1.png", b"garbage")
    store = site.store()
    store.scan()
    assert len(store.status().quarantined) == 2
    site.photo(bad.name)
    gone.unlink()
    assert len(scanned(store)[Modality.PHOTO]) == 1
    assert store.status().quarantined == ()
    assert (site.home / "quarantine.jsonl").read_text() == ""


def test_a_file_that_may_not_be_opened_is_tried_at_every_look(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.photo("0.png")
    store = site.store()

    def refuse(*_: object) -> NDArray[Any]:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(capture_store, "read_captures", refuse)
        assert scanned(store) == {}
    (entry,) = site.store().status().quarantined
    assert (entry.reason, entry.again) == ("cannot be read (Permission denied)", True)
    assert len(scanned(store)[Modality.PHOTO]) == 1
    assert store.status().quarantined == ()


NO_MEMORY = "takes more memory than there was"


@pytest.mark.parametrize(
    ("name", "reads", "error", "reason"),
    [
        (
            "0.png",
            "PIL.Image.open",
            OSError(EIO, "Input/output error"),
            "cannot be read (Input/output error)",
        ),
        ("0.png", "PIL.Image.open", MemoryError(), NO_MEMORY),
        ("0.wav", "soundfile.read", MemoryError(), NO_MEMORY),
        ("0.wav", "torchaudio.functional.resample", RuntimeError("can't allocate memory"), NO_MEMORY),
    ],
)
def test_a_good_file_outlives_what_passes(
    name: str, reads: str, error: Exception, reason: str, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that stutters and memory that is short say nothing of a file."""
    site.photo(name) if name.endswith("png") else site.sound(name, rate=22_050)
    store = site.store()

    def fail(*_: object, **__: object) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(reads, fail)
        store.scan()
    (entry,) = store.status().quarantined
    assert (entry.reason, entry.again) == (reason, True)
    store.scan()
    assert sum(counts(store).values()) == 1
    assert store.status().quarantined == ()


def test_a_damaged_quarantine_costs_a_second_try_only(site: Site, decodes: list[str]) -> None:
    site.raw("0.png", b"garbage")
    site.store().scan()
    log = site.home / "quarantine.jsonl"
    log.write_bytes(b'\xff\n[]\n{"name": 3}\nnull\n' + b"[" * 100_000 + b"\n" + log.read_bytes()[:20])
    store = site.store()
    store.scan()
    assert decodes == ["0.png", "0.png"]
    assert len(store.status().quarantined) == 1


def test_a_sound_that_would_not_fit_into_memory_is_refused_by_its_header(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.sound("long.flac", windows=3)
    monkeypatch.setattr(capture_files, "LONGEST_SOUND", 2 * 2 * SAMPLES)
    monkeypatch.setattr(capture_files, "decode_sound", lambda _: pytest.fail("it was decoded"))
    store = site.store()
    store.scan()
    assert store.status().quarantined[0].reason == "is longer than 16,000 samples"


def test_a_quota_keeps_the_newest(site: Site, decodes: list[str]) -> None:
    for index in range(6):
        site.photo(f"{index}.png", age=100 - index)
    store = site.store(3 * PHOTO_BYTES)
    store.scan()
    assert sorted(decodes) == ["3.png", "4.png", "5.png"]
    assert (counts(store), store.status().left_out, store.status().bytes) == (
        {"photo": 3},
        3,
        3 * PHOTO_BYTES,
    )
    site.photo("new.png", age=10)
    store.scan()
    assert decodes[3:] == ["new.png"]
    assert (counts(store), store.status().left_out) == ({"photo": 3}, 4)
    expected = [decode_photo(site.folder / f"{name}.png", SIDE) for name in ("4", "5", "new")]
    np.testing.assert_array_equal(everything(store.snapshot()[Modality.PHOTO]), expected)
    assert len(list(site.folder.iterdir())) == 7


def test_room_that_comes_free_is_used(site: Site) -> None:
    for index in range(4):
        site.photo(f"{index}.png")
    store = site.store(2 * PHOTO_BYTES)
    store.scan()
    (site.folder / "3.png").unlink()
    assert len(scanned(store)[Modality.PHOTO]) == 2
    assert counts(site.store(PHOTO_BYTES)) == {"photo": 2}
    store = site.store(PHOTO_BYTES)
    assert len(scanned(store)[Modality.PHOTO]) == 1


def test_a_file_that_does_not_fit_is_decoded_once_to_find_out(site: Site, decodes: list[str]) -> None:
    site.sound("old.wav", windows=1)
    site.sound("long.wav", windows=3)
    site.sound("new.wav", windows=2)
    store = site.store(4 * SOUND_BYTES)
    for _ in range(2):
        store.scan()
        assert decodes == ["new.wav", "long.wav"]
        assert (counts(store), store.status().left_out) == ({"sound": 2}, 2)
    (site.folder / "new.wav").unlink()
    store.scan()
    assert counts(store) == {"sound": 4}


def test_one_file_larger_than_the_quota_does_not_cost_the_others(site: Site, decodes: list[str]) -> None:
    site.sound("fits.wav", windows=1)
    site.sound("huge.wav", windows=5)
    store = site.store(2 * SOUND_BYTES)
    for _ in range(2):
        store.scan()
        assert decodes == ["huge.wav", "fits.wav"]
        assert (counts(store), store.status().left_out) == ({"sound": 1}, 1)


def test_a_quota_holds_at_every_moment(site: Site) -> None:
    rng = np.random.default_rng(0)
    for index in range(6):
        site.sound(f"{index}.wav", windows=int(rng.integers(1, 4)))
    quota = 6 * SOUND_BYTES
    store = site.store(quota)
    store.scan()
    for index in range(6, 30):
        site.sound(f"{index}.wav", windows=int(rng.integers(1, 4)))
        if index % 3:
            continue
        store.scan(between=lambda: assert_within(store, quota))
        held = np.asarray(
            [_windows(path) for path in sorted(site.folder.iterdir(), key=os.path.getmtime)[::-1]]
        )
        assert store.status().bytes == SOUND_BYTES * held.cumsum()[held.cumsum() <= 6][-1]


def assert_within(store: CaptureStore, quota: int) -> None:
    assert store.status().bytes <= quota


def _windows(path: Path) -> int:
    return int(soundfile.info(path).frames) // SAMPLES


def test_an_inbox_loses_its_oldest_captures(site: Site) -> None:
    paths = [site.photo(f"{index}.png") for index in range(4)]
    fresh = site.photo("fresh.png", age=0.0)
    other = site.raw("notes.txt", b"x" * 100_000)
    size = paths[0].stat().st_size
    store = site.store(round(2.5 * size), own=True)
    store.scan()
    assert [path.exists() for path in paths] == [False, False, True, True]
    assert fresh.exists()
    assert other.exists()
    assert counts(store) == {"photo": 2}
    site.clock.now += 10
    store.scan()
    assert [path.exists() for path in [*paths, fresh]] == [False, False, False, True, True]
    huge = site.raw("huge.png", b"x" * 10 * size)
    store.scan()
    assert [path.exists() for path in [*paths, fresh, huge]] == [False, False, False, True, True, False]


def test_an_inbox_is_kept_small_although_nothing_may_be_decoded_or_stored(
    site: Site, monkeypatch: pytest.MonkeyPatch, decodes: list[str]
) -> None:
    def refuse() -> None:
        raise Declined("in use")

    def full(_: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    paths = [site.photo(f"{index}.png") for index in range(4)]
    store = site.store(round(2.5 * paths[0].stat().st_size), own=True)
    with pytest.raises(Declined):
        store.scan(refuse)
    assert [path.exists() for path in paths] == [False, False, True, True]
    paths.append(site.photo("4.png"))
    with monkeypatch.context() as patch:
        patch.setattr(decoded.Decoded, "writing", full)
        store.scan()
    assert [path.exists() for path in paths] == [False, False, False, True, True]
    assert decodes == []


def test_somebody_elses_files_are_never_touched(site: Site) -> None:
    for index in range(4):
        site.photo(f"{index}.png")
    site.raw("bad.png", b"garbage")
    before = {path.name: path.read_bytes() for path in site.folder.iterdir()}
    site.store(quota_bytes=1).scan()
    assert {path.name: path.read_bytes() for path in site.folder.iterdir()} == before


def test_what_its_owner_deletes_is_forgotten_and_leaves_no_bytes(site: Site) -> None:
    for index in range(20):
        site.photo(f"{index}.png")
    store = site.store()
    photos = everything(scanned(store)[Modality.PHOTO])
    secret = decode_photo(site.folder / "7.png", SIDE).tobytes()
    assert sum(secret in path.read_bytes() for path in site.home.iterdir()) == 1
    (site.folder / "7.png").unlink()
    assert len(scanned(store)[Modality.PHOTO]) == len(photos) - 1
    store.scan()
    assert not any(secret in path.read_bytes() for path in site.home.iterdir())


def test_the_home_shrinks_with_what_it_holds(site: Site) -> None:
    for index in range(10):
        site.sound(f"{index}.wav", windows=10)
    store = site.store()
    store.scan()
    full = (site.home / "captures.sqlite").stat().st_size
    assert 100 * SOUND_BYTES <= full < 1.15 * 100 * SOUND_BYTES
    shutil.rmtree(site.folder)
    store.scan()
    assert counts(store) == {}
    assert store.status().problem == f"{site.folder} does not exist"
    assert (site.home / "captures.sqlite").stat().st_size < 0.1 * full


def test_a_folder_that_cannot_be_listed_changes_nothing(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.photo("a/0.png")
    site.raw("a/bad.png", b"garbage")
    site.photo("b/0.png")
    store = site.store()
    store.scan()
    scandir = os.scandir

    def failing(path: Path) -> Any:
        if Path(path).name == "a":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", failing)
        site.photo("b/1.png")
        assert len(scanned(store)[Modality.PHOTO]) == 3
        status = store.status()
        assert status.problem == f"{site.folder / 'a'} cannot be listed (Permission denied)"
        assert len(status.quarantined) == 1
    store.scan()
    assert store.status().problem is None


def test_what_changes_is_logged_once(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    store = site.store(2 * PHOTO_BYTES)
    said: list[list[str]] = []

    def look() -> None:
        caplog.clear()
        store.scan()
        store.scan()
        said.append([record.getMessage() for record in caplog.records])

    look()
    shutil.rmtree(site.folder)
    look()
    for index in range(3):
        site.photo(f"{index}.png")
    bad = site.raw("bad.png", b"garbage")
    look()
    bad.unlink()
    look()
    assert said == [
        ["captures: none"],
        [f"captures: {site.folder} does not exist"],
        [
            f"captures: this is over: {site.folder} does not exist",
            f"captures: 2 photos; left out for the quota: 1; quarantined: 1, see {site.home}/quarantine.jsonl",
        ],
        ["captures: 2 photos; left out for the quota: 1"],
    ]


def test_a_folder_that_may_not_be_looked_into_changes_nothing(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.photo("0.png")
    store = site.store()
    store.scan()
    stat = os.stat

    def failing(path: Any, **options: Any) -> os.stat_result:
        if Path(path) == site.folder:
            raise PermissionError(13, "Permission denied")
        return stat(path, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, "stat", failing)
        store.scan()
    assert counts(store) == {"photo": 1}
    assert store.status().problem == f"{site.folder} cannot be listed (Permission denied)"


def test_everything_may_vanish_while_a_round_reads(site: Site) -> None:
    """The folder, and even the store's own files; the round goes on, and the next look starts afresh."""
    for index in range(10):
        site.photo(f"{index}.png")
        site.sound(f"{index}.wav")
    store = site.store()
    seen = scanned(store)
    before = {modality: everything(source) for modality, source in seen.items()}
    shutil.rmtree(site.folder)
    store.scan()
    assert store.snapshot() == {}
    shutil.rmtree(site.home)
    for modality, source in seen.items():
        np.testing.assert_array_equal(everything(source), before[modality])
    site.home.mkdir()
    site.photo("new.png")
    assert len(scanned(store)[Modality.PHOTO]) == 1
    np.testing.assert_array_equal(everything(seen[Modality.SOUND]), before[Modality.SOUND])


def test_a_round_reads_while_another_thread_looks(site: Site) -> None:
    for index in range(10):
        site.photo(f"{index}.png")
    store = site.store(12 * PHOTO_BYTES)
    source = scanned(store)[Modality.PHOTO]
    before = everything(source)
    stop = threading.Event()

    def grow() -> None:
        for index in range(10, 40):
            site.photo(f"{index}.png")
            store.scan()
        stop.set()

    thread = threading.Thread(target=grow)
    thread.start()
    while not stop.is_set():
        np.testing.assert_array_equal(everything(source), before)
    thread.join()
    assert counts(store) == {"photo": 12}


def test_a_long_round_bounds_what_is_taken_in(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoded, "SLACK", 2_000_000)
    for index in range(3):
        site.sound(f"{index}.wav", windows=20)
    quota = 3 * 20 * SOUND_BYTES
    store = site.store(quota)
    seen = scanned(store)
    for index in range(3, 20):
        site.sound(f"{index}.wav", windows=20)
        store.scan()
    assert store.status().unfinished > 0
    journal = (site.home / "captures.sqlite-wal").stat().st_size
    assert 2_000_000 + quota < journal < 2_000_000 + 2.5 * quota
    assert len(everything(seen[Modality.SOUND])) == 60
    del seen
    store.scan()
    assert store.status().unfinished == 0
    np.testing.assert_array_equal(
        everything(store.snapshot()[Modality.SOUND])[:20],
        capture_files.read_captures(site.folder / "17.wav", Modality.SOUND, INPUTS[Modality.SOUND]),
    )


def test_a_look_may_be_given_up_and_keeps_what_it_decoded(site: Site, decodes: list[str]) -> None:
    for index in range(5):
        site.photo(f"{index}.png")

    def between() -> None:
        if len(decodes) == 2:
            raise Declined("in use")

    store = site.store()
    with pytest.raises(Declined):
        store.scan(between)
    assert counts(store) == {"photo": 2}
    store.scan()
    assert sorted(decodes) == [f"{index}.png" for index in range(5)]


def test_a_phone_that_dies_at_any_moment_goes_on_from_there(site: Site, tmp_path: Path) -> None:
    """The home as a crash would leave it between any two files, also with the end of the journal torn off."""
    for index in range(6):
        site.photo(f"{index}.png")
        site.sound(f"{index}.wav", windows=2)
    store, crashes = site.store(), tmp_path / "crashes"

    def crash() -> None:
        shutil.copytree(site.home, crashes / str(len(list(crashes.glob("*")))))

    crashes.mkdir()
    store.scan(between=crash)
    whole = {modality: everything(source) for modality, source in store.snapshot().items()}
    for number, home in enumerate(sorted(crashes.iterdir())):
        journal = home / "captures.sqlite-wal"
        if number % 2 and journal.exists():
            os.truncate(journal, journal.stat().st_size * 2 // 3)
        (home / "captures.sqlite-shm").unlink(missing_ok=True)
        revived = scanned(Site(site.folder, home, site.clock).store())
        for modality, source in revived.items():
            np.testing.assert_array_equal(everything(source), whole[modality])
    assert number == 11


def test_a_program_of_another_shape_decodes_anew(site: Site, decodes: list[str]) -> None:
    site.photo("0.png")
    site.sound("0.wav")
    site.store().scan()
    larger = replace(SPEC, inputs={**INPUTS, Modality.PHOTO: Input((24, 24, 3), "uint8", 1)})
    seen = scanned(site.store(spec=larger))
    assert decodes[2:] == ["0.png"]
    assert everything(seen[Modality.PHOTO]).shape == (1, 24, 24, 3)
    assert list(scanned(site.store(spec=replace(SPEC, inputs={Modality.SOUND: INPUTS[Modality.SOUND]})))) == [
        Modality.SOUND
    ]


@pytest.mark.parametrize("damage", ["garbage", "format", "middle", "tables"])
def test_a_damaged_home_is_made_anew(site: Site, damage: str) -> None:
    for index in range(200):
        site.raw(f"{index}.png", b"") if index else site.photo("0.png")
    site.sound("0.wav", windows=50)
    store = site.store()
    store.scan()
    path = site.home / "captures.sqlite"
    content = bytearray(path.read_bytes())
    if damage == "garbage":
        path.write_bytes(b"garbage" * 10_000)
    elif damage == "middle":
        content[decoded.PAGE :] = b"\xa5" * (len(content) - decoded.PAGE)
        path.write_bytes(content)
    else:
        connection = sqlite3.connect(path)
        connection.execute("PRAGMA user_version = 99" if damage == "format" else "PRAGMA user_version = 0")
        connection.close()
    store.scan()
    assert counts(store) == {"photo": 1, "sound": 50}


def test_damage_that_a_round_meets_is_told_and_mended_by_the_next_look(site: Site) -> None:
    site.sound("0.wav", windows=50)
    store = site.store()
    source = scanned(store)[Modality.SOUND]
    path = site.home / "captures.sqlite"
    half = decoded.PAGE * (path.stat().st_size // decoded.PAGE // 2)
    with path.open("r+b") as file:
        file.seek(half)
        file.write(b"\xa5" * (path.stat().st_size - half))
    del source
    with pytest.raises(CaptureError, match="was damaged"):
        everything(store.snapshot()[Modality.SOUND])
    assert len(everything(scanned(store)[Modality.SOUND])) == 50


def test_a_full_disk_is_a_problem_and_no_crash(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.photo("0.png")
    store = site.store()
    store.scan()
    site.photo("1.png")

    def full(*_: object, **__: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(decoded.Writer, "put", full)
        store.scan()
    assert store.problem == "decoded captures cannot be stored (database or disk is full)"
    assert len(scanned(store)[Modality.PHOTO]) == 2
    assert store.status().problem is None


def test_a_home_that_cannot_be_written_says_so(site: Site) -> None:
    site.home.write_text("a file")
    with pytest.raises(CaptureError, match="cannot be written"):
        site.store()


def test_a_finished_file_is_seen_with_the_real_clocks(site: Site) -> None:
    site.photo("old.png")
    fresh = site.photo("fresh.png")
    os.utime(fresh)
    store = CaptureStore(site.folder, SPEC, site.home)
    store.scan()
    assert counts(store) == {"photo": 1}
    assert store.status().unfinished == 1


def test_a_round_ends_although_the_folder_is_emptied_in_the_middle(
    small_task: LearningTask, site: Site, tmp_path: Path
) -> None:
    for index in range(12):
        site.photo(f"{index}.png")
        site.sound(f"{index}.wav")
    spec = program_spec(small_task, mixed=True)
    store = site.store(spec=spec)
    phone = replace(phone_with(small_task, 2, 2), captures=scanned(store))
    whole = train(phone, instruction(small_task))
    steps = 0

    def between() -> None:
        nonlocal steps
        steps += 1
        if steps == 2:
            shutil.rmtree(site.folder)
            site.photo("other.png")
            store.scan()

    emptied = train(phone, instruction(small_task), between)
    assert steps == 4
    assert np.array_equal(emptied.weights, whole.weights)
    assert emptied.seen == {Modality.PHOTO: 12, Modality.SOUND: 12}
    assert counts(store) == {"photo": 1}

"""`.npz` files: what is accepted, and the sentence for everything else."""

import struct
import tokenize
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pocketfed.core.captures import load_photos, load_sounds
from pocketfed.core.errors import CaptureError

RNG = np.random.default_rng(0)


def photos(**changes: Any) -> dict[str, Any]:
    """A whole photo file; a change to None removes the key."""
    arrays: dict[str, Any] = {
        "x_train": RNG.integers(0, 256, (6, 8, 8, 3), dtype=np.uint8),
        "y_train": np.array([0, 1, 0, 1, 0, 1], dtype=np.uint8),
        "x_test": RNG.integers(0, 256, (2, 8, 8, 3), dtype=np.uint8),
        "y_test": np.array([1, 0], dtype=np.uint8),
        "classes": np.array(["cat", "dog"]),
    } | changes
    return {key: array for key, array in arrays.items() if array is not None}


def sounds(**changes: Any) -> dict[str, Any]:
    """A whole sound file; a change to None removes the key."""
    arrays: dict[str, Any] = {
        "audio": RNG.integers(-32768, 32767, (6, 4000), dtype=np.int16),
        "label": np.array([0, 1, 0, 1, 0, 1], dtype=np.uint8),
        "split": np.array(["train", "train", "val", "train", "test", "test"]),
        "speaker": np.array(["ann", "bob", "eve", "ann", "joe", "kim"]),
        "classes": np.array(["no", "yes"]),
        "sample_rate": np.int32(16_000),
    } | changes
    return {key: array for key, array in arrays.items() if array is not None}


def write(folder: Path, arrays: dict[str, Any]) -> Path:
    np.savez(folder / "captures.npz", **arrays)
    return folder / "captures.npz"


def test_photos_with_sides(tmp_path: Path) -> None:
    arrays = photos()
    split = load_photos(write(tmp_path, arrays), side=8)
    np.testing.assert_array_equal(split.train.items, arrays["x_train"])
    np.testing.assert_array_equal(split.test.items, arrays["x_test"])
    assert split.train.labels.tolist() == [0, 1, 0, 1, 0, 1]
    assert split.test.labels.tolist() == [1, 0]
    assert split.train.classes == split.test.classes == ("cat", "dog")
    assert len(set(split.train.clips) | set(split.test.clips)) == 8


def test_photos_of_another_size_are_resized(tmp_path: Path) -> None:
    flat = np.full((6, 10, 20, 3), 77, dtype=np.uint8)
    split = load_photos(write(tmp_path, photos(x_train=flat)), side=5)
    np.testing.assert_array_equal(split.train.items, np.full((6, 5, 5, 3), 77))
    assert split.test.items.shape == (2, 5, 5, 3)


def test_photos_without_sides_are_held_out_by_class(tmp_path: Path) -> None:
    x = RNG.integers(0, 256, (20, 8, 8, 3), dtype=np.uint8)
    path = write(tmp_path, {"x": x, "y": np.arange(20) % 2})
    split = load_photos(path, side=8, seed=3)
    assert split.train.classes == ("0", "1")
    assert np.bincount(split.test.labels).tolist() == [2, 2]
    assert not set(split.train.clips) & set(split.test.clips)
    np.testing.assert_array_equal(split.test.items, x[split.test.clips])
    np.testing.assert_array_equal(split.test.items, load_photos(path, side=8, seed=3).test.items)


def test_photos_without_labels_say_minus_one(tmp_path: Path) -> None:
    path = write(tmp_path, {"x": np.zeros((5, 8, 8, 3), dtype=np.uint8), "y": np.full(5, -1)})
    assert load_photos(path).train.classes == ()


def test_sounds_with_sides_leave_val_out(tmp_path: Path) -> None:
    arrays = sounds()
    split = load_sounds(write(tmp_path, arrays), seconds=0.25)
    assert split.train.items.dtype == np.float32
    np.testing.assert_array_equal(split.train.items, arrays["audio"][[0, 1, 3]] / np.float32(32768))
    np.testing.assert_array_equal(split.test.items, arrays["audio"][[4, 5]] / np.float32(32768))
    assert split.train.labels.tolist() == [0, 1, 1]
    assert split.train.classes == ("no", "yes")
    assert split.train.groups[0] == split.train.groups[2] != split.train.groups[1]
    assert not set(split.train.groups) & set(split.test.groups)


def test_long_sounds_are_cut_and_share_a_clip(tmp_path: Path) -> None:
    split = load_sounds(write(tmp_path, sounds()), seconds=0.125)
    assert split.train.items.shape == (6, 2000)
    assert split.train.clips.tolist() == [0, 0, 1, 1, 3, 3]
    assert split.test.clips.tolist() == [4, 4, 5, 5]
    assert split.test.labels.tolist() == [0, 0, 1, 1]


def test_source_id_is_the_group_where_there_is_no_speaker(tmp_path: Path) -> None:
    source = np.array([900, 7, 7, 900, 12, 12], dtype=np.int32)
    split = load_sounds(write(tmp_path, sounds(speaker=None, source_id=source)))
    assert split.train.groups.tolist() == [2, 0, 2]
    assert load_sounds(write(tmp_path, sounds(speaker=None))).train.groups.tolist() == [-1, -1, -1]


def test_sounds_without_sides_keep_speakers_whole(tmp_path: Path) -> None:
    audio = RNG.uniform(-1, 1, (40, 100)).astype(np.float32)
    speaker = np.arange(40) // 4
    path = write(tmp_path, {"audio": audio, "label": np.arange(40) % 4, "speaker": speaker})
    split = load_sounds(path, seconds=0.01)
    assert len(set(split.test.groups)) == 2
    assert not set(split.train.groups) & set(split.test.groups)
    np.testing.assert_allclose(split.test.items[:, :100], audio[split.test.clips])


@pytest.mark.parametrize("key", ["x_train", "y_train", "x_test", "y_test"])
def test_a_missing_photo_key_is_named(tmp_path: Path, key: str) -> None:
    with pytest.raises(CaptureError, match=rf"captures\.npz has no key '{key}'; add it: (uint8|integers) \["):
        load_photos(write(tmp_path, photos(**{key: None})))


@pytest.mark.parametrize("key", ["audio", "label"])
def test_a_missing_sound_key_is_named(tmp_path: Path, key: str) -> None:
    with pytest.raises(CaptureError, match=rf"captures\.npz has no key '{key}'; add it: int"):
        load_sounds(write(tmp_path, sounds(**{key: None})))


@pytest.mark.parametrize(
    ("key", "array", "expected"),
    [
        (
            "x_train",
            np.zeros((6, 8, 8, 3), dtype=np.float32),
            r"uint8 \[count, height, width, 3\], but is float32",
        ),
        ("x_train", np.zeros((6, 3, 8, 8), dtype=np.uint8), r"uint8 .*, but is uint8 \[6, 3, 8, 8\]"),
        ("x_test", np.zeros((0, 8, 8, 3), dtype=np.uint8), r"uint8 .*, but is uint8 \[0, 8, 8, 3\]"),
        ("y_train", np.zeros(5, dtype=np.uint8), r"integers \[6\], but is uint8 \[5\]"),
        ("y_train", np.zeros(6), r"integers \[6\], but is float64 \[6\]"),
        ("y_test", np.array([0, -2]), r"labels from 0 up, or -1 where there is none"),
        ("classes", np.array(["cat"]), r"strings \[at least 2, as the labels go up to 1\], but is <U3 \[1\]"),
        ("classes", np.array([0, 1]), r"strings"),
    ],
)
def test_a_wrong_photo_array_is_named(tmp_path: Path, key: str, array: Any, expected: str) -> None:
    with pytest.raises(CaptureError, match=rf"^'{key}' in .*captures\.npz must be {expected}"):
        load_photos(write(tmp_path, photos(**{key: array})), side=8)


@pytest.mark.parametrize(
    ("key", "array", "expected"),
    [
        ("audio", np.zeros((6, 4000)), r"int16 or float32 \[count, samples\], but is float64 \[6, 4000\]"),
        (
            "audio",
            np.zeros(4000, dtype=np.int16),
            r"int16 or float32 \[count, samples\], but is int16 \[4000\]",
        ),
        ("audio", np.zeros((6, 0), dtype=np.int16), r"int16 or float32"),
        ("audio", np.full((6, 10), 900, dtype=np.float32), r"finite samples in \[-1, 1\]"),
        ("audio", np.full((6, 10), np.nan, dtype=np.float32), r"finite samples in \[-1, 1\]"),
        ("label", np.zeros((6, 2), dtype=np.int64), r"integers \[6\], but is int64 \[6, 2\]"),
        ("split", np.array(["train"] * 5 + ["dev"]), r'only "train", "val" or "test"'),
        ("split", np.array(["train"] * 6), r'at least one "train" and one "test"'),
        ("split", np.zeros(6), r"strings \[6\]"),
        ("speaker", np.zeros(6), r"integers or strings \[6\]"),
        ("sample_rate", np.int32(44_100), r"16000"),
    ],
)
def test_a_wrong_sound_array_is_named(tmp_path: Path, key: str, array: Any, expected: str) -> None:
    with pytest.raises(CaptureError, match=rf"^'{key}' in .*captures\.npz must be {expected}"):
        load_sounds(write(tmp_path, sounds(**{key: array})))


def test_too_few_to_split_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CaptureError, match="too few captures"):
        load_sounds(write(tmp_path, sounds(split=None, speaker=np.zeros(6, dtype=np.int64))))


def test_pickled_objects_are_refused(tmp_path: Path) -> None:
    split = np.array(["train", "test"] * 3, dtype=object)
    with pytest.raises(CaptureError, match=r"'split' in .* cannot be read"):
        load_sounds(write(tmp_path, sounds(split=split)))
    unused = np.array([{"anything": 1}], dtype=object)
    assert len(load_sounds(write(tmp_path, sounds(unused=unused))).train) == 3


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, photos())
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(CaptureError, match=r"is not a readable \.npz file"):
        load_photos(path)
    path.write_text("garbage")
    with pytest.raises(CaptureError, match=r"is not a readable \.npz file"):
        load_photos(path)
    with path.open("wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(CaptureError, match=r"is not a readable \.npz file"):
        load_photos(path)


def test_a_damaged_array_is_named(tmp_path: Path) -> None:
    path = write(tmp_path, sounds())
    content = bytearray(path.read_bytes())
    content[2000:2010] = b"0123456789"
    path.write_bytes(content)
    with pytest.raises(CaptureError, match=r"'audio' in .* cannot be read"):
        load_sounds(path)


@pytest.mark.parametrize(
    ("offset", "value"),
    [(8, 1), (10, 99), (10, 9)],
    ids=["encrypted", "an unknown compression", "a compression that Python lacks"],
)
def test_a_zip_that_python_cannot_read_is_named(tmp_path: Path, offset: int, value: int) -> None:
    path = write(tmp_path, {"x": np.zeros((4, 8, 8, 3), dtype=np.uint8), "y": np.zeros(4, dtype=np.int64)})
    content = bytearray(path.read_bytes())
    start = content.index(b"PK\x01\x02")  # the zip's directory
    struct.pack_into("<H", content, start + offset, value)
    struct.pack_into("<H", content, offset - 2, value)  # and in the member's own header
    path.write_bytes(content)
    with pytest.raises(CaptureError, match=r"'x' in .*captures\.npz cannot be read \(damaged, encrypted"):
        load_photos(path)


def test_a_member_that_was_cut_short_is_named(tmp_path: Path) -> None:
    path = write(tmp_path, {"y": np.zeros(4, dtype=np.int64)})
    with zipfile.ZipFile(path) as archive:
        whole = archive.read("y.npy")
    for content in (whole[:-8], whole[:20], b"\x93NUMPY\x01\x00\x04\x00((((", b""):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("x.npy", content)
        with pytest.raises(CaptureError, match=r"captures\.npz"):
            load_photos(path)


@pytest.mark.parametrize(
    "error", [MemoryError(), tokenize.TokenError("EOF"), RecursionError(), SyntaxError()]
)
def test_whatever_numpy_raises_names_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    path = write(tmp_path, photos())

    def fail(*_: object, **__: object) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(np.lib.npyio.NpzFile, "__getitem__", fail)
        with pytest.raises(CaptureError, match=r"'x_train' in .*captures\.npz cannot be read"):
            load_photos(path)
    monkeypatch.setattr(np, "load", fail)
    with pytest.raises(CaptureError, match=r"captures\.npz is not a readable"):
        load_photos(path)

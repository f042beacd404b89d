"""Folders as users have them."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from pocketfed.core.captures import Split, load_photos, load_sounds
from pocketfed.core.errors import CaptureError
from pocketfed.core.modality import Modality


def photo(path: Path, level: int = 128) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (level, level, level)).save(path)


def sound(path: Path, seconds: float = 1.0, level: float = 0.5) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.full(round(16_000 * seconds), level, dtype=np.float32), 16_000)


def assert_disjoint(split: Split) -> None:
    assert not set(split.train.clips) & set(split.test.clips)
    assert split.train.classes == split.test.classes


def test_sub_folders_are_classes_and_a_fifth_is_held_out(tmp_path: Path) -> None:
    for index in range(10):
        photo(tmp_path / "dog" / f"{index}.png", 10 + index)
        photo(tmp_path / "cat" / "of-ann" / f"{index}.JPG", 200 + index)
    split = load_photos(tmp_path, side=4)
    assert split.train.modality is Modality.PHOTO
    assert split.train.items.shape == (16, 4, 4, 3)
    assert split.train.classes == ("cat", "dog")
    assert np.bincount(split.train.labels).tolist() == [8, 8]
    assert np.bincount(split.test.labels).tolist() == [2, 2]
    for side in (split.train, split.test):
        np.testing.assert_array_equal(side.items.mean(axis=(1, 2, 3)) > 100, side.labels == 0)
        np.testing.assert_array_equal(side.groups, -1)
    assert_disjoint(split)


def test_the_seed_draws_what_is_held_out(tmp_path: Path) -> None:
    for index in range(20):
        photo(tmp_path / f"{index}.png", 10 * index)
    first, again, other = (load_photos(tmp_path, side=4, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.test.items, again.test.items)
    assert np.any(first.test.items != other.test.items)


def test_train_and_test_folders_are_the_sides(tmp_path: Path) -> None:
    for name in ("a/1.png", "a/2.png", "b/1.png"):
        photo(tmp_path / "train" / name, 50)
    photo(tmp_path / "test" / "b" / "1.webp", 200)
    photo(tmp_path / "test" / "c" / "1.webp", 200)
    photo(tmp_path / "val" / "a" / "1.png", 250)
    split = load_photos(tmp_path, side=4)
    assert split.test.classes == ("a", "b", "c")
    assert split.train.labels.tolist() == [0, 0, 1]
    assert split.test.labels.tolist() == [1, 2]
    assert split.train.items.max() < 100 < split.test.items.min()
    assert split.test.items.max() < 220
    assert_disjoint(split)


def test_train_alone_is_a_class_like_another(tmp_path: Path) -> None:
    for name in ("train/1.png", "train/2.png", "bus/1.png", "bus/2.png"):
        photo(tmp_path / name)
    assert load_photos(tmp_path).train.classes == ("bus", "train")


def test_files_without_sub_folders_have_no_class(tmp_path: Path) -> None:
    for index in range(5):
        sound(tmp_path / f"{index}.wav")
    split = load_sounds(tmp_path)
    assert split.train.classes == ()
    assert (len(split.train), len(split.test)) == (4, 1)
    np.testing.assert_array_equal(split.train.labels, -1)


def test_hidden_and_foreign_files_are_ignored(tmp_path: Path) -> None:
    for index in range(2):
        photo(tmp_path / "a" / f"{index}.png")
    for name in (
        ".hidden.png",
        "a/.hidden.png",
        ".cache/1.png",
        "a/.cache/1.png",
        "a/notes.txt",
        "text/x.txt",
    ):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("not a photo")
    sound(tmp_path / "sounds" / "1.wav")
    split = load_photos(tmp_path)
    assert len(split.train) + len(split.test) == 2
    assert split.train.classes == ("a",)


def test_windows_of_a_recording_stay_on_one_side(tmp_path: Path) -> None:
    for index in range(10):
        sound(tmp_path / "a" / f"{index}.flac", seconds=0.5 + 0.5 * index, level=0.05 * (index + 1))
    split = load_sounds(tmp_path, seconds=1.0)
    assert_disjoint(split)
    assert split.train.items.shape[1] == 16_000
    for side in (split.train, split.test):
        for clip in set(side.clips):
            levels = side.items[side.clips == clip].max(axis=1)
            np.testing.assert_allclose(levels, levels[0], atol=1e-4)
    assert len(set(split.train.clips) | set(split.test.clips)) == 10
    assert len(split.train) + len(split.test) == sum(max(1, (1 + k + 1) // 2) for k in range(10))


def test_a_missing_path_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        CaptureError, match=r"nowhere does not exist; give a folder of photos \(\.jpg, .*\) or an"
    ):
        load_photos(tmp_path / "nowhere")
    with pytest.raises(
        CaptureError, match=r"nowhere\.npz does not exist; give a folder of sounds \(\.wav, .*\) or"
    ):
        load_sounds(tmp_path / "nowhere.npz")


def test_a_single_file_is_refused(tmp_path: Path) -> None:
    photo(tmp_path / "a.png")
    with pytest.raises(CaptureError, match=r"a\.png is neither a folder nor an \.npz file"):
        load_photos(tmp_path / "a.png")


def test_a_folder_without_the_modality_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        CaptureError, match=r"holds no photos \(\.jpg, \.jpeg, \.png, \.webp\); put some in it"
    ):
        load_photos(tmp_path)
    photo(tmp_path / "a" / "1.png")
    with pytest.raises(CaptureError, match=r"holds no sounds \(\.wav, \.flac, \.ogg\)"):
        load_sounds(tmp_path)


def test_an_empty_side_is_refused(tmp_path: Path) -> None:
    photo(tmp_path / "train" / "a" / "1.png")
    (tmp_path / "test").mkdir()
    with pytest.raises(CaptureError, match=r"test holds no photos"):
        load_photos(tmp_path)


def test_too_few_to_split_is_refused(tmp_path: Path) -> None:
    photo(tmp_path / "a" / "1.png")
    photo(tmp_path / "b" / "1.png")
    with pytest.raises(CaptureError, match=r"has too few photos to hold 20 % of each class out"):
        load_photos(tmp_path)


def test_one_corrupt_photo_is_named(tmp_path: Path) -> None:
    for index in range(3):
        photo(tmp_path / "a" / f"{index}.png")
    (tmp_path / "a" / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n garbage")
    with pytest.raises(CaptureError) as caught:
        load_photos(tmp_path)
    bad = tmp_path / "a" / "bad.png"
    assert str(caught.value) == (
        f"1 of 4 photos in {tmp_path} cannot be used: {bad} is damaged or not a photo; "
        "replace them or move them away."
    )


def test_a_photo_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for index in range(3):
        photo(tmp_path / "a" / f"{index}.png")

    def fail(*_: object, **__: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("PIL.Image.open", fail)
    with pytest.raises(CaptureError, match=r"3 of 3 photos .*0\.png cannot be read \(Input/output error\)"):
        load_photos(tmp_path)


def test_many_corrupt_sounds_are_counted_in_one_error(tmp_path: Path) -> None:
    sound(tmp_path / "good.wav")
    soundfile.write(tmp_path / "0.wav", np.zeros(0, dtype=np.float32), 16_000)
    for index in range(1, 7):
        (tmp_path / f"{index}.ogg").write_text("garbage")
    with pytest.raises(CaptureError) as caught:
        load_sounds(tmp_path)
    message = str(caught.value)
    assert message.startswith(f"7 of 8 sounds in {tmp_path} cannot be used: ")
    assert "0.wav is empty; " in message
    assert "2.ogg is damaged" in message
    assert "3.ogg" not in message
    assert "; and 4 more; " in message
    assert "\n" not in message


@pytest.mark.parametrize("side", [0, -1])
def test_a_photo_must_have_a_side(tmp_path: Path, side: int) -> None:
    with pytest.raises(ValueError, match="side"):
        load_photos(tmp_path, side=side)

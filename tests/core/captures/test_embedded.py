"""Captures the package makes itself: the same each time, balanced, and neither trivial nor hopeless."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.neighbors import KNeighborsClassifier

from pocketfed.core.captures import Captures, Split, embedded_photos, embedded_sounds
from pocketfed.core.modality import Modality

COUNT = 800


@pytest.fixture(scope="module")
def photos() -> Split:
    return embedded_photos(COUNT, side=32, seed=0)


@pytest.fixture(scope="module")
def sounds() -> Split:
    return embedded_sounds(COUNT, seconds=1.0, seed=0)


@pytest.fixture(params=["photos", "sounds"])
def split(request: pytest.FixtureRequest, photos: Split, sounds: Split) -> Split:
    return photos if request.param == "photos" else sounds


def assert_same(left: Captures, right: Captures) -> None:
    for name in ("items", "labels", "groups", "clips"):
        np.testing.assert_array_equal(getattr(left, name), getattr(right, name))


def test_the_sides_are_balanced_and_disjoint(split: Split) -> None:
    assert len(split.train) + len(split.test) == COUNT
    assert np.bincount(split.train.labels).tolist() == [80] * 8
    assert np.bincount(split.test.labels).tolist() == [20] * 8
    assert len(split.train.classes) == 8
    assert len(set(split.train.clips) | set(split.test.clips)) == COUNT


def test_makers_say_nothing_about_the_class(split: Split) -> None:
    groups = np.concatenate([split.train.groups, split.test.groups])
    labels = np.concatenate([split.train.labels, split.test.labels])
    assert set(groups) == set(range(12))
    table = np.histogram2d(groups, labels, bins=(12, 8))[0]
    assert np.all(table.max(axis=1) == table.min(axis=1))


def test_photos_are_raw_captures(photos: Split) -> None:
    assert photos.train.modality is Modality.PHOTO
    assert photos.train.items.dtype == np.uint8
    assert photos.train.items.shape == (640, 32, 32, 3)
    assert photos.train.items.std(axis=(1, 2, 3)).min() > 5


def test_sounds_are_raw_captures(sounds: Split) -> None:
    assert sounds.train.modality is Modality.SOUND
    assert sounds.train.items.dtype == np.float32
    assert sounds.train.items.shape == (640, 16_000)
    peaks = np.abs(sounds.train.items).max(axis=1)
    assert peaks.min() > 0.3
    assert peaks.max() <= 1.0


def test_the_same_seed_makes_the_same_captures() -> None:
    for first, again, other in (
        [embedded_photos(40, side=16, seed=seed) for seed in (1, 1, 2)],
        [embedded_sounds(40, seconds=0.25, seed=seed) for seed in (1, 1, 2)],
    ):
        assert_same(first.train, again.train)
        assert_same(first.test, again.test)
        assert np.all(np.any(first.train.items != other.train.items, axis=-1).any(axis=-1))


def test_more_captures_do_not_change_the_first() -> None:
    few, many = (embedded_photos(count, side=8, seed=0) for count in (24, 48))
    drawn = {
        clip: photo
        for side in (many.train, many.test)
        for clip, photo in zip(side.clips, side.items, strict=True)
    }
    for clip, photo in zip(few.train.clips, few.train.items, strict=True):
        np.testing.assert_array_equal(photo, drawn[clip])


def accuracy(train: NDArray[Any], test: NDArray[Any], split: Split) -> float:
    return float(KNeighborsClassifier(10).fit(train, split.train.labels).score(test, split.test.labels))


def test_raw_pixels_tell_a_little(photos: Split) -> None:
    flat = [side.items.reshape(len(side), -1) / 255.0 for side in (photos.train, photos.test)]
    assert 0.25 < accuracy(flat[0], flat[1], photos) < 0.7


def test_mean_spectra_tell_a_little(sounds: Split) -> None:
    mean = []
    for side in (sounds.train, sounds.test):
        spectrum = np.abs(np.fft.rfft(side.items.reshape(len(side), -1, 400), axis=2))  # [count, frames, 201]
        mean.append(np.log(spectrum + 0.01).mean(axis=1))
    assert 0.25 < accuracy(mean[0], mean[1], sounds) < 0.7


def test_too_few_or_too_small_is_refused() -> None:
    with pytest.raises(ValueError, match="count"):
        embedded_photos(15)
    with pytest.raises(ValueError, match="count"):
        embedded_sounds(15)
    with pytest.raises(ValueError, match="side"):
        embedded_photos(100, side=4)
    with pytest.raises(ValueError, match="seconds"):
        embedded_sounds(100, seconds=0.1)

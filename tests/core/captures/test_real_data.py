"""Real captures, where the machine has them: `POCKETFED_DATA`, or `../shared/data` beside the repository."""

import os
from pathlib import Path

import numpy as np
import pytest

from pocketfed.core.captures import load_photos, load_sounds

BESIDE = Path(__file__).resolve().parents[3].parent / "shared" / "data"
DATA = Path(os.environ.get("POCKETFED_DATA", BESIDE))


def real(name: str) -> Path:
    path = DATA / name
    if not path.is_file():
        pytest.skip(f"{path} is absent; POCKETFED_DATA can name the folder that holds {name}")
    return path


def test_cifar() -> None:
    split = load_photos(real("cifar10_subset.npz"))
    assert split.train.items.shape == (10_000, 32, 32, 3)
    assert np.bincount(split.train.labels).tolist() == [1000] * 10
    assert np.bincount(split.test.labels).tolist() == [200] * 10
    assert split.train.classes[0] == "airplane"


@pytest.mark.parametrize(
    ("name", "train", "test", "classes"),
    [
        ("arabic_speech_commands10_16k.npz", 720, 240, 10),
        ("speech_commands_v1_3words_16k.npz", 225, 75, 3),
    ],
)
def test_speech(name: str, train: int, test: int, classes: int) -> None:
    split = load_sounds(real(name))
    assert split.train.items.shape == (train, 16_000)
    assert split.test.items.shape == (test, 16_000)
    assert len(split.train.classes) == classes
    assert not set(split.train.groups) & set(split.test.groups)
    assert np.abs(split.train.items).max() <= 1.0


def test_esc() -> None:
    split = load_sounds(real("esc10_16k.npz"), seconds=1.0)
    assert len(set(split.train.clips)) == 320
    assert len(set(split.test.clips)) == 80
    assert 320 < len(split.train) < 5 * 320  # the padding of short clips is gone
    assert np.abs(split.train.items).max(axis=1).min() > 0
    assert not set(split.train.groups) & set(split.test.groups)
    whole = load_sounds(real("esc10_16k.npz"), seconds=5.0)
    assert whole.train.items.shape == (320, 80_000)

"""A classifier's head: its file, what it belongs to, and that it is the linear probe of reports."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from pocketfed.core.captures import Captures, Split
from pocketfed.core.errors import CaptureError, HeadError
from pocketfed.core.evaluation import clip_labels, embed, judge, linear_probe
from pocketfed.core.head import Head, Trial, encoder_digest, head_bytes, read_head, save_head
from pocketfed.core.layout import Role
from pocketfed.core.learning_task import LearningTask, initial_weights, learning_task
from pocketfed.core.modality import Modality
from pocketfed.core.probe import folded, train_head
from pocketfed.core.views import PhotoView

HEAD = Head(
    Modality.SOUND, ("yes", "nö"), np.arange(6, dtype=np.float32).reshape(2, 3), np.ones(2, np.float32), "ab", "compact",
    Trial((8, 4), (2, 1), (2, 0)),
)  # fmt: skip


def test_the_file_says_what_the_head_is(tmp_path: Path) -> None:
    save_head(tmp_path / "a.head", HEAD)
    read = read_head(tmp_path / "a.head")
    for field in dataclasses.fields(Head):
        assert np.array_equal(getattr(read, field.name), getattr(HEAD, field.name)), field.name
    assert head_bytes(read) == head_bytes(HEAD)
    columns = dataclasses.replace(HEAD, weight=np.asfortranarray(HEAD.weight))  # as scikit-learn leaves them
    assert head_bytes(columns) == head_bytes(HEAD)


def test_accuracy_and_chance_by_hand() -> None:
    assert HEAD.trial.accuracy == pytest.approx(2 / 3)
    assert HEAD.trial.chance == pytest.approx(2 / 3)
    assert Trial((4, 8), (2, 1), (0, 0)).chance == pytest.approx(1 / 3)


def test_what_is_no_head_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.head"
    with pytest.raises(HeadError, match="cannot be read"):
        read_head(path)
    whole = head_bytes(HEAD)
    foreign = save({"weights": np.zeros(3, np.float32)})
    for content in (
        b"",
        b"no head at all",
        whole[:-1],
        whole[:-1] + b"\0",
        foreign,
        whole.replace(b"sound", b"smell"),
        save({"weight": np.zeros(1, np.float32)}, metadata={"head": "[" * 5000}),
        save({"weight": np.zeros(1, np.float32)}, metadata={"head": '{"format":' * 5000}),
    ):
        path.write_bytes(content)
        with pytest.raises(HeadError, match="is no head, or a damaged one"):
            read_head(path)
    path.write_bytes(whole.replace(b'\\"format\\": 1', b'\\"format\\": 7'))
    with pytest.raises(HeadError, match="has format 7, this version reads 1"):
        read_head(path)


@pytest.mark.parametrize(
    "change",
    [
        {"classes": ("yes",)},
        {"bias": np.ones(3, np.float32)},
        {"weight": np.ones(6, np.float32)},
        {"weight": np.ones((2, 3))},
        {"trial": Trial((8, 4), (0, 0), (0, 0))},
        {"trial": Trial((8,), (2,), (2,))},
        {"trial": Trial((8, 4), (2, -1), (2, 0))},
        {"trial": Trial((8, 4), (2, 1), (2, 2))},
    ],
)
def test_everything_is_there_once_for_each_class(change: dict[str, Any], tmp_path: Path) -> None:
    save_head(tmp_path / "a.head", dataclasses.replace(HEAD, **change))
    with pytest.raises(HeadError, match="is no head, or a damaged one"):
        read_head(tmp_path / "a.head")


def test_a_head_belongs_to_all_that_its_features_depend_on_and_to_no_projector(
    small_task: LearningTask,
) -> None:
    weights = initial_weights(small_task, 0)
    own = encoder_digest(small_task, weights, Modality.PHOTO)
    for part in small_task.layout.slices:
        other = weights.copy()
        other[part.offset] += 1
        same = encoder_digest(small_task, other, Modality.PHOTO) == own
        assert same == (part.role is Role.PROJECTOR), part.name
    larger = learning_task("compact", {Modality.PHOTO: PhotoView(side=24)}, batch=6)
    assert encoder_digest(larger, weights, Modality.PHOTO) != own
    assert encoder_digest(small_task, weights, Modality.SOUND) != own
    alone = learning_task("compact", {Modality.PHOTO: PhotoView(side=16)}, batch=2)
    assert (
        encoder_digest(alone, weights, Modality.PHOTO) == own
    )  # of batch and other modalities it knows nothing


@pytest.mark.parametrize("classes", [2, 3])
def test_folded_it_is_the_linear_probe(classes: int) -> None:
    rng = np.random.default_rng(classes)
    labels = rng.integers(0, classes, 90)
    features = (5 + rng.standard_normal((90, 6)) + 2 * np.eye(6)[labels]).astype(np.float32) * np.float32(0.1)
    features[:, 5] = 3.0  # no deviation to divide by
    probe = linear_probe().fit(features, labels)
    weight, bias = folded(probe)
    scores = features.astype(np.float64) @ weight.T + bias
    assert (weight.shape, bias.shape) == ((classes, 6), (classes,))
    assert np.array_equal(probe.classes_[scores.argmax(1)], probe.predict(features))
    probabilities = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    assert np.allclose(probabilities, probe.predict_proba(features), atol=1e-5)


def photos(labels: list[int], classes: tuple[str, ...] = ("cat", "cow", "dog"), seed: int = 0) -> Captures:
    """Brighter with their label, and each a clip of its own."""
    items = np.random.default_rng(seed).integers(0, 80, (len(labels), 16, 16, 3), dtype=np.uint8)
    items += (80 * np.maximum(labels, 0)).astype(np.uint8).reshape(-1, 1, 1, 1)
    index = np.arange(len(labels))
    return Captures(
        Modality.PHOTO, items, np.asarray(labels, dtype=np.int64), classes, np.full(len(labels), -1), index
    )


def test_a_trained_head_is_as_good_as_reports_say(small_task: LearningTask) -> None:
    weights = initial_weights(small_task, 0)
    rng = np.random.default_rng(1)
    noisy = [int(label) for label in rng.choice([0, 2], 30)]  # of the class in between there is none
    split = Split(photos(noisy), photos([0] * 9 + [2] * 3, seed=1))
    split.train.items[:] = rng.permuted(split.train.items, axis=0)  # so that some answers are wrong
    head = train_head(small_task, weights, split)
    bank, test = (embed(small_task, weights, part) for part in (split.train, split.test))
    expected = judge(bank, clip_labels(split.train), test, clip_labels(split.test))
    assert head.classes == ("cat", "dog")
    assert head.trial.accuracy == pytest.approx(expected.probe)
    assert (sum(head.trial.trained), head.trial.held_out) == (30, (9, 3))
    assert head.encoder == encoder_digest(small_task, weights, Modality.PHOTO)
    easy = train_head(small_task, weights, Split(photos([0, 2] * 6), photos([0, 2], seed=1)))
    assert easy.trial.accuracy == 1.0


def test_every_mistake_in_the_labels_is_said_at_once(small_task: LearningTask) -> None:
    weights = initial_weights(small_task, 0)

    def refusal(train: list[int], test: list[int]) -> str:
        with pytest.raises(CaptureError) as caught:
            train_head(small_task, weights, Split(photos([0, *train]), photos(test)))
        return str(caught.value)

    both = refusal([0, -1, 0], [])
    assert "1 of 4 photos have no class; put every file into a sub-folder" in both
    assert "no photos are held out" in both
    assert "all photos to train on are of the class 'cat'; a classifier needs two" in both
    assert "no photos to train on are of 'cow', which the held-out ones have" in refusal([2, 2], [0, 1])


@pytest.mark.parametrize("scale", [np.nan, 1e20])
def test_features_that_say_nothing_train_no_head(small_task: LearningTask, scale: float) -> None:
    weights = (initial_weights(small_task, 0) * np.float32(scale)).astype(np.float32)
    with pytest.raises(HeadError, match="not finite; take those of an earlier round"):
        train_head(small_task, weights, Split(photos([0, 1] * 3), photos([0, 1])))

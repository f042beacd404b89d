"""Judging features: known answers, clips, and what counts as labelled."""

import numpy as np
import pytest
import torch

from pocketfed.core import evaluation
from pocketfed.core.captures import Captures, Split
from pocketfed.core.evaluation import clip_labels, embed, evaluate, is_labelled, judge
from pocketfed.core.learning_step import embedding
from pocketfed.core.learning_task import LearningTask, initial_weights
from pocketfed.core.modality import Modality


def photos(count: int, labels: list[int], clips: list[int] | None = None, seed: int = 0) -> Captures:
    rng = np.random.default_rng(seed)
    index = np.arange(count)
    return Captures(
        Modality.PHOTO,
        rng.integers(0, 256, (count, 16, 16, 3), dtype=np.uint8),
        np.asarray(labels, dtype=np.int64),
        ("a", "b"),
        np.full(count, -1),
        np.asarray(clips) if clips else index,
    )


def test_separable_features_are_judged_perfect_and_random_labels_at_chance() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 400)
    features = (np.eye(4)[labels] + 0.05 * rng.standard_normal((400, 4))).astype(np.float32)
    perfect = judge(features[:300], labels[:300], features[300:], labels[300:])
    assert (perfect.knn, perfect.probe) == (1.0, 1.0)
    shuffled = rng.permutation(labels)
    chance = judge(features[:300], shuffled[:300], features[300:], shuffled[300:])
    assert 0.1 < chance.knn < 0.42
    assert 0.1 < chance.probe < 0.42


def test_features_that_are_not_finite_are_an_error() -> None:
    features = np.full((30, 4), np.nan, dtype=np.float32)
    with pytest.raises(ValueError, match="NaN"):
        judge(features, np.arange(30) % 2, features, np.arange(30) % 2)


def test_windows_of_a_clip_are_averaged(small_task: LearningTask) -> None:
    weights = initial_weights(small_task, 0)
    captures = photos(5, [0, 1, 1, 0, 0], clips=[7, 3, 3, 9, 9])
    function = embedding(small_task, Modality.PHOTO)
    each = function(torch.from_numpy(weights), torch.from_numpy(captures.items))[0].detach().numpy()
    together = embed(small_task, weights, captures)
    expected = np.stack([each[1:3].mean(0), each[0], each[3:].mean(0)])  # clips in rising order: 3, 7, 9
    assert np.allclose(together, expected, atol=1e-5)
    assert clip_labels(captures).tolist() == [1, 0, 0]


def test_evaluate_embeds_and_judges(small_task: LearningTask) -> None:
    dark, bright = photos(60, [0, 1] * 30), photos(20, [0, 1] * 10, seed=1)
    for captures in (dark, bright):
        captures.items[captures.labels == 1] //= 4
    accuracy = evaluate(small_task, initial_weights(small_task, 0), Split(dark, bright))
    assert accuracy is not None
    assert accuracy.probe > 0.9


@pytest.mark.parametrize("scale", [np.nan, 1e20])
def test_an_encoder_whose_features_say_nothing_has_no_accuracy(
    small_task: LearningTask, scale: float
) -> None:
    split = Split(photos(6, [0, 1] * 3, clips=[0, 0, 1, 1, 2, 2]), photos(4, [0, 1] * 2))
    weights = (initial_weights(small_task, 0) * np.float32(scale)).astype(np.float32)
    assert evaluate(small_task, weights, split) is None


@pytest.mark.parametrize("features", [[np.inf, -np.inf], [3e38, 3e38], [1e20, 0.0]])
def test_extreme_features_have_no_accuracy(
    small_task: LearningTask, monkeypatch: pytest.MonkeyPatch, features: list[float]
) -> None:
    rows = torch.tensor(features).reshape(2, 1)
    monkeypatch.setattr(evaluation, "embedding", lambda *_: lambda theta, items: (rows,))
    pair = photos(2, [0, 1], clips=[0, 0])
    assert evaluate(small_task, initial_weights(small_task, 0), Split(pair, pair)) is None


def test_labels_are_needed_for_judging() -> None:
    labelled, test = photos(4, [0, 1, 0, 1]), photos(2, [0, 1])
    assert is_labelled(Split(labelled, test))
    assert not is_labelled(Split(photos(4, [-1] * 4), test))
    assert not is_labelled(Split(photos(4, [1] * 4), test))
    assert not is_labelled(Split(labelled, test.take(np.arange(0))))
    assert not is_labelled(Split(labelled.take(np.arange(0)), test))
    assert not is_labelled(Split(labelled, photos(2, [0, -1])))
    assert not is_labelled(Split(photos(4, [0, 1, -1, 1]), test))
    assert is_labelled(Split(labelled, photos(2, [1, 1])))

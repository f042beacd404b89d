"""Judging a frozen encoder: k-nearest neighbours and a linear probe on its features, never fine-tuning it.

Labels are used here and nowhere else. A gain is honest only against the untrained encoder of the same seed: the
absolute accuracy of a small network moves by more with the seed than training moves it.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.validation import check_array

from pocketfed.core.captures import Captures, Split
from pocketfed.core.learning_step import embedding
from pocketfed.core.learning_task import LearningTask

Features = NDArray[np.float32]


@dataclass(frozen=True)
class Accuracy:
    """Shares of correct answers on the test clips, in [0, 1]."""

    knn: float
    probe: float


def embed(task: LearningTask, weights: NDArray[np.float32], captures: Captures) -> Features:
    """Features of each clip, float32 [clips, features]: the mean over the windows of a clip, clips in rising order."""
    function = embedding(task, captures.modality)
    theta = torch.from_numpy(weights)
    parts = []
    with torch.no_grad():
        for start in range(0, len(captures), 256):
            parts.append(function(theta, torch.from_numpy(captures.items[start : start + 256]))[0].numpy())
    return clip_means(np.concatenate(parts), captures)


def clip_means(features: Features, captures: Captures) -> Features:
    """From features of each window, [len(captures), features], to those of each clip; see `embed`."""
    _, clip = np.unique(captures.clips, return_inverse=True)
    total = np.zeros((clip.max() + 1, features.shape[1]), dtype=np.float64)
    with np.errstate(
        invalid="ignore"
    ):  # infinities of both signs in one clip are NaN, and `evaluate` sees to that
        np.add.at(total, clip, features)
    mean: Features = (total / np.bincount(clip)[:, None]).astype(np.float32)
    return mean


def clip_labels(captures: Captures) -> NDArray[np.int64]:
    """int64 [clips], in the order of `embed`."""
    _, first = np.unique(captures.clips, return_index=True)
    return captures.labels[first]


def is_labelled(split: Split) -> bool:
    """Whether the split can be judged: a test part, labels everywhere, and two classes at least to train on."""
    train, test = split.train.labels, split.test.labels
    whole = bool((train >= 0).all() and (test >= 0).all())
    return len(test) > 0 and whole and len(np.unique(train)) > 1


def says_something(features: Features) -> bool:
    """Whether all features are finite, and their squares too."""
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(np.square(features).sum()))


def linear_probe() -> Any:
    """scikit-learn's logistic regression on standardised features, C = 0.1; not fitted yet."""
    return make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000))


def judge(
    bank: Features, bank_labels: NDArray[np.int64], test: Features, test_labels: NDArray[np.int64]
) -> Accuracy:
    """Accuracy on `test` given the labelled `bank`, by `nearest` and by `linear_probe`.

    Raises:
        ValueError: the features are not finite.
    """
    for features in (bank, test):
        check_array(features)  # finite, or a clear error here and not a wrong figure later
    return Accuracy(
        knn=nearest(bank, bank_labels, test, test_labels),
        probe=float(linear_probe().fit(bank, bank_labels).score(test, test_labels)),
    )


def nearest(
    bank: Features, bank_labels: NDArray[np.int64], test: Features, test_labels: NDArray[np.int64]
) -> float:
    """Accuracy of k-NN: the 20 nearest by cosine similarity (fewer in a smaller bank), each with one vote."""
    knn = KNeighborsClassifier(n_neighbors=min(20, len(bank)), metric="cosine", algorithm="brute")
    return float(knn.fit(bank, bank_labels).score(test, test_labels))


def evaluate(task: LearningTask, weights: NDArray[np.float32], split: Split) -> Accuracy | None:
    """Embed a labelled split with frozen weights and judge it.

    None if the features say nothing: they are not finite, or so large that their squares are not.
    """
    bank, test = embed(task, weights, split.train), embed(task, weights, split.test)
    if not (says_something(bank) and says_something(test)):
        return None
    return judge(bank, clip_labels(split.train), test, clip_labels(split.test))

"""Training a classifier's head on the frozen encoder: the linear probe of `evaluation`, kept in place of only judged."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pocketfed.core.captures import Split
from pocketfed.core.errors import CaptureError, HeadError
from pocketfed.core.evaluation import clip_labels, embed, linear_probe, says_something
from pocketfed.core.head import Head, Trial, about_encoder, encoder_digest
from pocketfed.core.learning_task import LearningTask


def train_head(task: LearningTask, weights: NDArray[np.float32], split: Split) -> Head:
    """A head trained on the clips of `split.train`, and tried on those of `split.test`.

    Args:
        task: whose backbone and view.
        weights: float32 [layout.size]; they stay as they are.
        split: labelled captures of one of the task's modalities.

    Raises:
        CaptureError: labels are missing, or fewer than two classes, or a class has nothing to train on.
        HeadError: the features of these weights say nothing, since they are not finite.
    """
    modality = split.train.modality
    if problems := label_problems(split):
        raise CaptureError("\n".join(problems))
    bank, test = embed(task, weights, split.train), embed(task, weights, split.test)
    if not (says_something(bank) and says_something(test)):
        raise HeadError("the features of these weights are not finite; take those of an earlier round")
    labels, wanted = clip_labels(split.train), clip_labels(split.test)
    probe = linear_probe().fit(bank, labels)
    weight, bias = folded(probe)
    known = probe.classes_  # rising; a class without captures is left out
    named = known[np.argmax(test @ weight.T + bias, axis=1)]

    def counts(of: NDArray[np.int64]) -> tuple[int, ...]:
        return tuple(int((of == label).sum()) for label in known)

    return Head(
        modality, tuple(split.train.classes[label] for label in known), weight, bias,
        encoder_digest(task, weights, modality), about_encoder(task, modality),
        Trial(counts(labels), counts(wanted), counts(wanted[named == wanted])),
    )  # fmt: skip


def label_problems(split: Split) -> list[str]:
    """Why no head can be trained on these captures, a sentence each; nothing if one can."""
    noun = f"{split.train.modality}s"
    train, test = clip_labels(split.train), clip_labels(split.test)
    bare, every = int((train < 0).sum() + (test < 0).sum()), len(train) + len(test)
    problems = []
    if bare:
        problems.append(
            f"{bare} of {every} {noun} have no class; put every file into a sub-folder that is named after its class"
        )
    if not len(test):
        problems.append(f"no {noun} are held out to try the classifier on; give more of each class")
    known = {split.train.classes[label] for label in np.unique(train) if label >= 0}
    if len(known) == 1:
        problems.append(
            f"all {noun} to train on are of the class {known.pop()!r}; a classifier needs two at least"
        )
    elif unseen := {split.test.classes[label] for label in np.unique(test) if label >= 0} - known:
        names = ", ".join(map(repr, sorted(unseen)))
        problems.append(f"no {noun} to train on are of {names}, which the held-out ones have; give it some")
    return problems


def folded(probe: Any) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """A fitted `linear_probe` as one linear map, its standardisation inside: weight [classes, features], bias [classes].

    scikit-learn has one row for two classes, the second's score less the first's; half of it goes to each.
    """
    scaler, regression = probe[0], probe[-1]
    weight, bias = regression.coef_, regression.intercept_
    if len(weight) == 1:
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    weight = weight / scaler.scale_
    return weight.astype(np.float32), (bias - weight @ scaler.mean_).astype(np.float32)

"""The classifiers of a bundle: heads that sit on its encoder, and what the manifest says of them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pocketfed.core.errors import HeadError
from pocketfed.core.head import Head, about_encoder, encoder_digest, head_bytes, read_head
from pocketfed.core.learning_task import LearningTask
from pocketfed.core.manifest import describe_tensor
from pocketfed.core.modality import Modality
from pocketfed.export.coreml.embedding import SCORES


def read_heads(paths: Sequence[Path]) -> dict[Modality, Head]:
    """One head of each modality.

    Raises:
        HeadError: one cannot be read, or two are of the same modality; all mistakes at once.
    """
    heads: dict[Modality, Head] = {}
    problems: list[str] = []
    for path in paths:
        try:
            head = read_head(path)
        except HeadError as error:
            problems.append(str(error))
            continue
        if head.modality in heads:
            problems.append(
                f"{path} is the second head of {head.modality}s; a bundle takes one of each modality"
            )
        heads[head.modality] = head
    if problems:
        raise HeadError("\n".join(problems))
    return heads


def check_heads(task: LearningTask, weights: NDArray[np.float32], heads: Mapping[Modality, Head]) -> None:
    """Whether heads belong to this very encoder.

    Raises:
        HeadError: one belongs to another, or to a modality that the bundle has not; all mistakes at once.
    """
    problems = [problem for head in heads.values() if (problem := _misfit(task, weights, head)) is not None]
    if problems:
        raise HeadError("\n".join(problems))


def _misfit(task: LearningTask, weights: NDArray[np.float32], head: Head) -> str | None:
    if head.modality not in task.views:
        return f"the head of {head.modality}s has nothing to sit on: the bundle is of {', '.join(task.views)}s alone"
    if head.encoder == encoder_digest(task, weights, head.modality):
        return None
    own = about_encoder(task, head.modality)
    other = f"{head.about}, not {own}" if head.about != own else f"{own}, but with other weights"
    return (
        f"the head of {head.modality}s belongs to another encoder ({other}); train one on what the bundle is made from, "
        "with: pocketfed probe"
    )


def head_files(heads: Mapping[Modality, Head]) -> dict[str, bytes]:
    """By path in the bundle."""
    return {_file(modality): head_bytes(head) for modality, head in heads.items()}


def about_heads(heads: Mapping[Modality, Head]) -> dict[str, Any]:
    """The manifest's `classifiers`, by modality; nothing without heads."""
    about = {
        str(modality): {
            "labels": list(head.classes),
            "scores": "logits in the order of the labels; softmax of them are probabilities",
            "head": _file(modality),
            "trained_on": sum(head.trial.trained),
            "held_out": sum(head.trial.held_out),
            "accuracy": round(head.trial.accuracy, 4),
            "chance": round(head.trial.chance, 4),
        }
        for modality, head in heads.items()
    }
    return {"classifiers": about} if about else {}


def _file(modality: Modality) -> str:
    return f"head_{modality}.safetensors"


def describe_scores(head: Head, batch: int) -> dict[str, Any]:
    """A classifier's output in the manifest."""
    return describe_tensor(SCORES, [batch, len(head.classes)], "float32", "logits in the order of the labels")

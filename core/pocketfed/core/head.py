"""A classifier's head: a linear map from features of the frozen encoder to class scores, and the file that holds it.

One safetensors file: `weight` float32 [classes, features], `bias` float32 [classes], and one entry of metadata, `head`
(safetensors keeps several in no order), which is a JSON object:

    format      1
    modality    photo or sound
    classes     names, in the order of the scores
    encoder     SHA-256 of the encoder that it belongs to, see `encoder_digest`
    about       what that encoder is, for people
    trial       by class, clips trained on, clips held out, and held-out clips that it named rightly
    sha256      of all of this

Scores are logits: softmax of them are probabilities. They are linear in the features, so the mean of the scores of a
recording's windows is the score of its mean features, by which the head was trained.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from pocketfed.core.atomic import write_atomically
from pocketfed.core.errors import HeadError
from pocketfed.core.learning_task import LearningTask
from pocketfed.core.modality import Modality
from pocketfed.core.parsing import parse_json
from pocketfed.core.role import Role

FORMAT = 1
EMBEDS = (Role.BACKBONE, Role.BUFFER)
"""Roles of the slices that features are made of."""


@dataclass(frozen=True)
class Trial:
    """How a head did on clips that it was not trained on.

    Attributes:
        trained, held_out, right: by class: clips that it was trained on, clips that it was not, and how many of the
            latter it named rightly.
    """

    trained: tuple[int, ...]
    held_out: tuple[int, ...]
    right: tuple[int, ...]

    @property
    def accuracy(self) -> float:
        """The share of held-out clips that were named rightly."""
        return sum(self.right) / sum(self.held_out)

    @property
    def chance(self) -> float:
        """The share that always naming the class with most training clips gets right."""
        return self.held_out[self.trained.index(max(self.trained))] / sum(self.held_out)


@dataclass(frozen=True)
class Head:
    """See the module's docstring.

    Attributes:
        modality: of the captures.
        classes: names, in the order of the scores.
        weight: float32 [classes, features].
        bias: float32 [classes].
        encoder: that it belongs to, by `encoder_digest`.
        about: what that encoder is, for people.
        trial: how good it is.
    """

    modality: Modality
    classes: tuple[str, ...]
    weight: NDArray[np.float32]
    bias: NDArray[np.float32]
    encoder: str
    about: str
    trial: Trial


def encoder_digest(task: LearningTask, weights: NDArray[np.float32], modality: Modality) -> str:
    """SHA-256 (hex) of all that features of a modality depend on; the projector is no part of it.

    Args:
        task: whose backbone and view.
        weights: float32 [layout.size].
        modality: one of the task's.
    """
    layout = task.layout.part(EMBEDS).to_json()
    told = [task.backbone, modality, list(task.views[modality].capture_shape), layout]
    digest = hashlib.sha256(json.dumps(told).encode())
    digest.update(task.layout.gather(weights, EMBEDS).tobytes())
    return digest.hexdigest()


def about_encoder(task: LearningTask, modality: Modality) -> str:
    """What an encoder is, for people; two with the same words may have other weights."""
    shape = " x ".join(str(size) for size in task.views[modality].capture_shape)
    return f"{task.backbone}, {modality}s of {shape}"


def save_head(path: Path, head: Head) -> None:
    """Write a head; the file is whole or not there."""
    write_atomically(path, head_bytes(head))


def head_bytes(head: Head) -> bytes:
    """The file of a head; the same head gives the same bytes."""
    told = {
        "format": FORMAT,
        "modality": str(head.modality),
        "classes": list(head.classes),
        "encoder": head.encoder,
        "about": head.about,
        "trial": {name: list(counts) for name, counts in asdict(head.trial).items()},
    }
    told["sha256"] = _digest(told, head.weight, head.bias)
    # Not in the order of columns, in which scikit-learn leaves them: safetensors would write those as they lie.
    tensors = {"weight": np.ascontiguousarray(head.weight), "bias": np.ascontiguousarray(head.bias)}
    return save(tensors, metadata={"head": json.dumps(told)})


def read_head(path: Path) -> Head:
    """Read what `save_head` wrote.

    Raises:
        HeadError: the file is missing, damaged, no head, or of another version.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise HeadError(f"{path} cannot be read ({error.strerror}); make it with: pocketfed probe") from error
    try:
        tensors, told = load(content), _told(content)
        if told["format"] != FORMAT:
            raise HeadError(
                f"{path} has format {told['format']!r}, this version reads {FORMAT}; make it anew"
            )
        if told["sha256"] != _digest(told, tensors["weight"], tensors["bias"]):
            raise ValueError("its hash is wrong")
        trial = Trial(**{name: tuple(counts) for name, counts in told["trial"].items()})
        head = Head(
            Modality(told["modality"]), tuple(told["classes"]), tensors["weight"], tensors["bias"], told["encoder"],
            told["about"], trial,
        )  # fmt: skip
        _check(head)
        return head
    except (SafetensorError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise HeadError(
            f"{path} is no head, or a damaged one ({error}); make it with: pocketfed probe"
        ) from error


def _check(head: Head) -> None:
    """Nothing, if everything is there once for each class.

    Raises:
        ValueError: it is not.
    """
    classes, trial = len(head.classes), head.trial
    if head.weight.ndim != 2 or len(head.weight) != classes or head.bias.shape != (classes,):
        raise ValueError(f"{classes} classes, {head.weight.shape} weights and {head.bias.shape} biases")
    if not head.weight.dtype == head.bias.dtype == np.float32:
        raise ValueError("its numbers are no float32")
    counts = (trial.trained, trial.held_out, trial.right)
    if any(len(each) != classes or min(each, default=-1) < 0 for each in counts) or not sum(trial.held_out):
        raise ValueError("its trial does not have clips of every class")
    if any(right > held_out for right, held_out in zip(trial.right, trial.held_out, strict=True)):
        raise ValueError("its trial names more clips right than there were")


def _told(content: bytes) -> dict[str, Any]:
    """The metadata of a whole safetensors file, which begins with a length in eight bytes and so much JSON."""
    header = parse_json(content[8 : 8 + int.from_bytes(content[:8], "little")])
    told: dict[str, Any] = parse_json(header["__metadata__"]["head"])
    return told


def _digest(told: dict[str, Any], weight: NDArray[np.float32], bias: NDArray[np.float32]) -> str:
    rest = {key: value for key, value in told.items() if key != "sha256"}
    digest = hashlib.sha256(json.dumps([rest, weight.shape, bias.shape], sort_keys=True).encode())
    digest.update(weight.tobytes())
    digest.update(bias.tobytes())
    return digest.hexdigest()

"""What the manifest says of each program, by what the program is; made when a bundle is, and again when it is checked."""

from collections.abc import Mapping
from typing import Any

from pocketfed.core.learning_step import gradient_method
from pocketfed.core.learning_task import LearningTask
from pocketfed.core.manifest import (
    FEATURES,
    LOSS,
    UNIFORM,
    UNITS,
    WEIGHTS,
    describe_inference,
    describe_tensor,
    describe_training,
    feature_width,
    hyper_names,
)
from pocketfed.core.modality import Modality
from pocketfed.export.coreml.compression import Weights
from pocketfed.export.coreml.embedding import BATCHES, CAPTURES, EMBEDDING
from pocketfed.export.coreml.training import INPUTS, OUTPUTS
from pocketfed.export.mil.interface import IMAGE
from pocketfed.export.versions import least_runtime

IOS = "iOS 17"
"""Least system of Core ML packages."""

EMBED, CLASSIFY, TRAIN = "Embed", "Classify", "Train"
"""What packages do, with which their names begin."""

GRADIENTS = (
    LOSS,
    "of the weights that train, which come first",
    "of the last weights, to be copied over them",
)
"""Units of the outputs of a package with loss and gradient."""


def package_name(kind: str, modality: Modality) -> str:
    """Of the package in a bundle that does this with captures of a modality."""
    return f"{kind}{str(modality).capitalize()}.mlpackage"


def kind_of(name: str) -> tuple[str, Modality]:
    """What a package does and with captures of which modality, by its name.

    Raises:
        ValueError: none that is made here has this name.
    """
    for kind in (EMBED, CLASSIFY, TRAIN):
        for modality in Modality:
            if name == package_name(kind, modality):
                return kind, modality
    raise ValueError(f"{name!r} is no name of a package")


def training_entry(task: LearningTask, mixed: bool, made_with: Mapping[str, str]) -> dict[str, Any]:
    """Of `train.pte`; JSON values, as all of these."""
    return {**_xnnpack(made_with), "precision": "float32", "methods": describe_training(task, mixed)}


def inference_entry(
    task: LearningTask, modality: Modality, batch: int, precision: str, made_with: Mapping[str, str],
    scores: Mapping[str, Any] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Of `embed_*.pte`, with `scores`, as an output is described, of `classify_*.pte`."""
    name = f"{'embed' if scores is None else 'classify'}_{modality}"
    methods = {name: describe_inference(task, modality, batch, scores)}
    return {**_xnnpack(made_with), "precision": precision, "methods": methods}


def delegated_entry(
    task: LearningTask, modality: Modality, batch: int, stored: Weights, made_with: Mapping[str, str]
) -> dict[str, Any]:
    """Of `embed_*_coreml.pte`."""
    return {
        **_computes(stored), "runtime": "executorch", "backend": "coreml", "least": least_runtime(made_with), "system": IOS,
        "methods": {f"embed_{modality}": describe_inference(task, modality, batch)},
    }  # fmt: skip


def package_entry(
    task: LearningTask, modality: Modality, stored: Weights, scores: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Of `Embed*.mlpackage`, with `scores` of `Classify*.mlpackage`."""
    image = modality is Modality.PHOTO
    shape = list(task.views[modality].capture_shape)
    dtype = IMAGE if image else "float32"
    capture = describe_tensor(CAPTURES, shape if image else [1, *shape], dtype, UNITS[modality])
    embedding = describe_tensor(EMBEDDING, [1, feature_width(task)], "float32", FEATURES)
    return {
        **_computes(stored),
        "runtime": "coreml",
        "batches": [1] if image else list(BATCHES),
        "inputs": [capture],
        "outputs": [dict(scores or embedding)],
    }


def gradient_entry(task: LearningTask, modality: Modality) -> dict[str, Any]:
    """Of `Train*.mlpackage`."""
    example = gradient_method(task, modality).example
    units = (WEIGHTS, UNITS[modality], UNIFORM, "by names")
    inputs = [
        describe_tensor(name, value.shape, "float32", unit)
        for name, value, unit in zip(INPUTS, example, units, strict=True)
    ]
    inputs[-1]["names"] = hyper_names([modality])
    statistics = task.layout.size - task.layout.trained
    sizes = [1, task.layout.trained] + ([statistics] if statistics else [])
    outputs = [
        describe_tensor(name, [size], "float32", unit)
        for name, size, unit in zip(OUTPUTS, sizes, GRADIENTS, strict=False)
    ]
    return {
        "runtime": "coreml", "least": IOS, "precision": "float32", "experimental": True,
        "inputs": inputs, "outputs": outputs,
    }  # fmt: skip


def _xnnpack(made_with: Mapping[str, str]) -> dict[str, Any]:
    """Of programs that the runtime takes which they were made with, and later ones."""
    return {"runtime": "executorch", "least": least_runtime(made_with), "backend": "xnnpack"}


def _computes(stored: Weights) -> dict[str, Any]:
    return {"least": IOS, "precision": "float16", "front_end": "float32", "weights": str(stored)}

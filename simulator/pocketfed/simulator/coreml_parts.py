"""The parts of a bundle that Apple's Core ML runs: embeddings, the same inside ExecuTorch, and the gradient."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pocketfed.core.head import Head
from pocketfed.core.learning_step import embed_method, gradient_method
from pocketfed.core.learning_task import LearningTask
from pocketfed.core.manifest import (
    FEATURES,
    LOSS,
    UNIFORM,
    UNITS,
    WEIGHTS,
    about_task,
    describe_embedding,
    describe_tensor,
    hyper_names,
)
from pocketfed.core.modality import Modality
from pocketfed.export.coreml.compression import Weights
from pocketfed.export.coreml.convert import package_files
from pocketfed.export.coreml.delegate import delegated_program
from pocketfed.export.coreml.embedding import BATCHES, CAPTURES, EMBEDDING, embedding_package
from pocketfed.export.coreml.training import INPUTS, OUTPUTS, training_package
from pocketfed.export.mil.interface import IMAGE
from pocketfed.simulator.bundle_part import Part
from pocketfed.simulator.classifiers import describe_scores

IOS = "iOS 17"
"""Least system of Core ML packages."""

GRADIENTS = (
    LOSS,
    "of the weights that train, which come first",
    "of the last weights, to be copied over them",
)
"""Units of the outputs of a package with loss and gradient."""


def embedding_part(
    task: LearningTask,
    weights: NDArray[np.float32],
    modality: Modality,
    stored: Weights,
    head: Head | None = None,
) -> Part:
    """`Embed*.mlpackage`, with a head `Classify*.mlpackage`: photos as an image, sounds in batches of several sizes.

    Raises:
        ExportError: Core ML does not take the backbone.
    """
    image = modality is Modality.PHOTO
    name = f"{'Embed' if head is None else 'Classify'}{str(modality).capitalize()}.mlpackage"
    embedding = describe_tensor(EMBEDDING, [1, about_task(task)["features"]], "float32", FEATURES)
    shape = list(task.views[modality].capture_shape)
    dtype = IMAGE if image else "float32"
    capture = describe_tensor(CAPTURES, shape if image else [1, *shape], dtype, UNITS[modality])
    about = {
        **_computes(stored),
        "runtime": "coreml",
        "batches": [1] if image else list(BATCHES),
        "inputs": [capture],
        "outputs": [embedding if head is None else describe_scores(head, 1)],
    }
    model = embedding_package(task, weights, modality, image=image, head=head, stored=stored)
    return Part(package_files(model, name), {name: about})


def delegated_part(
    task: LearningTask, weights: NDArray[np.float32], modality: Modality, batch: int, stored: Weights
) -> Part:
    """`embed_*_coreml.pte`: the inputs and outputs of `embed_*.pte`, computed by a Core ML package inside.

    Raises:
        ExportError: Core ML does not take the backbone.
    """
    method = embed_method(task, modality)
    described = describe_embedding(method)
    described["inputs"] = described["inputs"][1:]  # the weights are inside
    for value in (*described["inputs"], *described["outputs"]):
        value["shape"][0] = batch
    example = method.example[1]
    captures = torch.zeros((batch, *example.shape[1:]), dtype=example.dtype)
    model = embedding_package(task, weights, modality, [batch], stored=stored)
    program = delegated_program(model, method.name, captures, about_task(task)["features"])
    about = {
        **_computes(stored), "runtime": "executorch", "backend": "coreml", "methods": {method.name: described}
    }  # fmt: skip
    name = f"embed_{modality}_coreml.pte"
    return Part({name: program}, {name: about})


def training_part(task: LearningTask, modality: Modality) -> Part:
    """`Train*.mlpackage`: loss and gradient of a batch; the app updates the weights.

    Raises:
        ExportError: Core ML does not take the step.
    """
    name = f"Train{str(modality).capitalize()}.mlpackage"
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
    about = {
        "runtime": "coreml",
        "least": IOS,
        "precision": "float32",
        "experimental": True,
        "inputs": inputs,
        "outputs": outputs,
    }
    return Part(package_files(training_package(task, modality), name), {name: about})


def _computes(stored: Weights) -> dict[str, Any]:
    return {"least": IOS, "precision": "float16", "front_end": "float32", "weights": str(stored)}

"""The parts of a bundle that Apple's Core ML runs: embeddings, the same inside ExecuTorch, and the gradient."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pocketfed.core.head import Head
from pocketfed.core.learning_step import embed_method, gradient_method
from pocketfed.core.learning_task import LearningTask
from pocketfed.core.manifest import about_task, describe_embedding
from pocketfed.core.modality import Modality
from pocketfed.export.coreml.compression import Weights
from pocketfed.export.coreml.convert import package_files
from pocketfed.export.coreml.delegate import delegated_program
from pocketfed.export.coreml.embedding import BATCHES, CAPTURES, EMBEDDING, embedding_package
from pocketfed.export.coreml.training import INPUTS, OUTPUTS, training_package
from pocketfed.simulator.bundle_part import Part
from pocketfed.simulator.classifiers import describe_scores

IOS = "iOS 17"
"""Least system of Core ML packages."""


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
    embedding = {"name": EMBEDDING, "shape": [1, about_task(task)["features"]], "dtype": "float32"}
    capture = {
        "name": CAPTURES,
        "shape": list(task.views[modality].capture_shape),
        "dtype": "RGB image" if image else "float32",
    }
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
    shapes = [list(value.shape) for value in gradient_method(task, modality).example]
    statistics = task.layout.size - task.layout.trained
    sizes = [1, task.layout.trained] + ([statistics] if statistics else [])
    about = {
        "runtime": "coreml",
        "least": IOS,
        "precision": "float32",
        "experimental": True,
        "inputs": [_tensor(name, shape) for name, shape in zip(INPUTS, shapes, strict=True)],
        "outputs": [_tensor(name, [size]) for name, size in zip(OUTPUTS, sizes, strict=False)],
    }
    return Part(package_files(training_package(task, modality), name), {name: about})


def _computes(stored: Weights) -> dict[str, Any]:
    return {"least": IOS, "precision": "float16", "front_end": "float32", "weights": str(stored)}


def _tensor(name: str, shape: list[int]) -> dict[str, Any]:
    return {"name": name, "shape": shape, "dtype": "float32"}

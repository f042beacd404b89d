"""The parts of a bundle that Apple's Core ML runs: embeddings, the same inside ExecuTorch, and the gradient."""

import numpy as np
import torch
from numpy.typing import NDArray

from pocketfed.core.head import Head
from pocketfed.core.learning_step import embed_method
from pocketfed.core.learning_task import LearningTask
from pocketfed.core.manifest import feature_width
from pocketfed.core.modality import Modality
from pocketfed.export.coreml.compression import Weights, stored_as
from pocketfed.export.coreml.convert import package_files
from pocketfed.export.coreml.delegate import delegated_program
from pocketfed.export.coreml.embedding import embedding_package
from pocketfed.export.coreml.training import training_package
from pocketfed.export.versions import exporter_versions
from pocketfed.simulator.bundle_part import Part
from pocketfed.simulator.classifiers import describe_scores
from pocketfed.simulator.program_entries import (
    CLASSIFY,
    EMBED,
    TRAIN,
    delegated_entry,
    gradient_entry,
    package_entry,
    package_name,
)


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
    name = package_name(EMBED if head is None else CLASSIFY, modality)
    image = modality is Modality.PHOTO
    model = embedding_package(task, weights, modality, image=image, head=head, stored=stored)
    scores = None if head is None else describe_scores(head, 1)
    about = package_entry(task, modality, stored_as(model.get_spec()), scores)
    return Part(package_files(model, name), {name: about})


def delegated_part(
    task: LearningTask, weights: NDArray[np.float32], modality: Modality, batch: int, stored: Weights
) -> Part:
    """`embed_*_coreml.pte`: the inputs and outputs of `embed_*.pte`, computed by a Core ML package inside.

    Raises:
        ExportError: Core ML does not take the backbone.
    """
    method = embed_method(task, modality)
    example = method.example[1]
    captures = torch.zeros((batch, *example.shape[1:]), dtype=example.dtype)
    model = embedding_package(task, weights, modality, [batch], stored=stored)
    program = delegated_program(model, method.name, captures, feature_width(task))
    about = delegated_entry(task, modality, batch, stored_as(model.get_spec()), exporter_versions())
    name = f"embed_{modality}_coreml.pte"
    return Part({name: program}, {name: about})


def training_part(task: LearningTask, modality: Modality) -> Part:
    """`Train*.mlpackage`: loss and gradient of a batch; the app updates the weights.

    Raises:
        ExportError: Core ML does not take the step.
    """
    name = package_name(TRAIN, modality)
    return Part(package_files(training_package(task, modality), name), {name: gradient_entry(task, modality)})

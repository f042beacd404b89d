"""The learning step without its update as a Core ML package: weights and captures in, loss and gradient out.

Experimental: it has run on our interpreter only, never on Apple's hardware. All of it is in float32, since gradients in
half precision are several per cent off, and the weights are an input, since Core ML's own state is in half precision.
"""

from typing import Any

from pocketfed.core.learning_step import gradient_method
from pocketfed.core.learning_task import LearningTask
from pocketfed.core.modality import Modality
from pocketfed.export.coreml.graph import graph_package
from pocketfed.export.lowering import Passes, lower

INPUTS = ("weights", "captures", "noise", "hyper")
"""Of the package, in the order of `learning_step.learning_gradient`."""

OUTPUTS = ("loss", "gradient", "statistics")
"""Of the package; the last only where layers have running statistics."""


def training_package(task: LearningTask, modality: Modality) -> Any:
    """Loss and gradient of one batch of one modality.

    Args:
        task: whose step.
        modality: of the captures.

    Returns:
        coremltools' model. It takes weights float32 [p], captures float32 [batch, *capture_shape] (photos: 0 to 255),
        noise float32 [batch, 2, n] and hyper float32 [8], and gives loss float32 [1], gradient float32 [trained] and,
        where layers have any, new running statistics float32 [p - trained].

    Raises:
        ExportError: Core ML does not take an operator of the step.
    """
    method = gradient_method(task, modality)
    # Pieces of a batch suit a small cache; here they would only be more operators.
    module = lower(method.function, method.example, Passes(batch_pieces=False))
    results: Any = module.graph.output_node().args[0]
    return graph_package(module, INPUTS, OUTPUTS[: len(results)])

"""The embedding as a Core ML package: captures in, features or class scores out, weights inside.

The front end computes in float32, since the logarithm of a quiet sound does not survive half precision; the backbone
in half precision, which is what Apple's accelerators have. A classifier's head computes in float32.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn
from torch.export import ExportedProgram

from pocketfed.core.head import Head
from pocketfed.core.learning_task import LearningTask
from pocketfed.core.modality import Modality
from pocketfed.export.bound import bound_backbone, bound_head
from pocketfed.export.coreml.compression import Weights, compressed
from pocketfed.export.coreml.convert import convert, exported
from pocketfed.export.quiet import coremltools

BATCHES = (1, 8, 32)
"""Sizes of a batch that a package takes."""

CAPTURES, EMBEDDING, SCORES = "captures", "embedding", "scores"
"""Names of the input and of the output, without and with a head."""


class _Embedding(nn.Module):
    """Captures float32 [batch, *capture_shape], photos of 0 to 255 -> [batch, features or classes].

    With `image`, photos come as [batch, 3, side, side].
    """

    def __init__(
        self,
        task: LearningTask,
        weights: NDArray[np.float32],
        modality: Modality,
        image: bool,
        head: Head | None,
    ) -> None:
        super().__init__()
        self.image, self.view = image, task.views[modality]
        self.backbone = bound_backbone(task, weights)
        self.head = bound_head(head)

    def forward(self, captures: Tensor) -> Tensor:
        """See the class."""
        if self.image:
            captures = captures.permute(0, 2, 3, 1)  # it comes with its channels first
        result: Tensor = self.head(self.backbone(self.view.plain(self.view.front(captures))))
        return result


def embedding_package(
    task: LearningTask,
    weights: NDArray[np.float32],
    modality: Modality,
    batches: Sequence[int] = BATCHES,
    *,
    image: bool = False,
    head: Head | None = None,
    stored: Weights = Weights.FLOAT16,
) -> Any:
    """The embedding of one modality with fixed weights, or the classifier that a head makes of it.

    Args:
        task: whose backbone and view.
        weights: float32 [layout.size].
        modality: of the captures.
        batches: sizes of a batch that it takes; the first is the default.
        image: take one photo at a time as an RGB image, as from the camera, in place of arrays.
        head: of this very encoder.
        stored: how the backbone's weights are stored.

    Returns:
        coremltools' model; its input is `captures`, its output `embedding`, float32 [batch, features], or with a head
        `scores`, float32 [batch, classes].

    Raises:
        ExportError: Core ML does not take the backbone.
    """
    net = _Embedding(task, weights, modality, image, head)
    capture = task.views[modality].capture_shape
    shape = (3, *capture[:2]) if image else capture
    program = _exported(net, shape, [1] if image else batches)
    output = EMBEDDING if head is None else SCORES
    model = convert(program, [_input(shape, batches, image)], [output], _in_backbone)
    return compressed(model, stored)


def _exported(net: nn.Module, shape: tuple[int, ...], batches: Sequence[int]) -> ExportedProgram:
    if len(batches) == 1:
        return exported(net, torch.zeros((batches[0], *shape)))
    # An example of two, since torch takes a size of one for a constant.
    sizes = {"captures": {0: torch.export.Dim("batch", min=1, max=max(batches))}}
    return exported(net, torch.zeros((2, *shape)), sizes)


def _input(shape: tuple[int, ...], batches: Sequence[int], image: bool) -> Any:
    ct = coremltools()
    if image:
        return ct.ImageType(name=CAPTURES, shape=(1, *shape), color_layout=ct.colorlayout.RGB)
    shapes = [(batch, *shape) for batch in batches]
    sizes = ct.EnumeratedShapes(shapes=shapes, default=shapes[0]) if len(shapes) > 1 else shapes[0]
    return ct.TensorType(name=CAPTURES, shape=sizes, dtype=np.float32)


def _in_backbone(node: fx.Node) -> bool:
    """Whether a node of the exported program computes a part of the backbone."""
    stack = node.meta.get("nn_module_stack") or {}
    return any(path.partition(".")[0] == "backbone" for path, _ in stack.values())

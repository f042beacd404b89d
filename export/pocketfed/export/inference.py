"""Inference programs: raw captures in, features or class scores out, the weights baked in as constants.

    front end ── lower ──► products ─┐
    backbone, weights bound ─────────┼─► export ──► (int8: quantise) ──► decompose ──► XNNPACK
    (a classifier's head) ───────────┘

The function is that of `learning_step.embedding`, and of `head` behind it if there is one. Where the learning step must write convolutions as products,
because its weights change with every call, this program has XNNPACK's convolutions, and parallel linear branches fused.
"""

from collections.abc import Iterator
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn
from torch.export import ExportedProgram

from pocketfed.core.errors import ExportError
from pocketfed.core.head import Head
from pocketfed.core.learning_step import embed_method
from pocketfed.core.learning_task import LearningTask
from pocketfed.core.modality import Modality
from pocketfed.export.bound import bound_backbone, bound_head
from pocketfed.export.constant_operands import constants_on_the_right
from pocketfed.export.executorch import Program, exported_program, exporting, finish
from pocketfed.export.inference_operators import inference_decompositions
from pocketfed.export.lowering import lower
from pocketfed.export.quantisation import quantise

Precision: TypeAlias = Literal["float32", "int8"]


def export_inference(
    task: LearningTask,
    weights: NDArray[np.float32],
    modality: Modality,
    batch: int,
    *,
    precision: Precision = "float32",
    calibration: NDArray[Any] | None = None,
    allow_portable: bool = False,
    head: Head | None = None,
) -> Program:
    """Export the embedding of one modality with fixed weights; the method is `embed_photo` or `embed_sound`.

    The program maps captures [batch, *capture_shape] (photos uint8, sounds float32) to features float32
    [batch, features]. With a head the method is `classify_photo` or `classify_sound`, and gives scores float32
    [batch, classes].

    Args:
        task: whose backbone and view.
        weights: float32 [layout.size].
        modality: of the captures.
        batch: how many captures the program takes at once.
        precision: int8 quantises the backbone's convolutions and linear layers; the front end stays float32.
        calibration: for int8, real captures [n, *capture_shape], n at least `batch`; a hundred or more are enough.
        allow_portable: accept operators that XNNPACK does not take and run them as slow portable kernels.
        head: of this very encoder; it stays float32.

    Raises:
        ExportError: the weights, the modality or the calibration do not fit the task; the backbone cannot be
            exported; or an operator is left outside the delegate that is not cheap, and `allow_portable` is false.
    """
    _check(task, weights, modality)
    name, blank = _signature(task, modality, batch)
    if head is not None:
        name = f"classify_{modality}"
    net = _Embedding(task, weights, modality, blank, head)
    with exporting():
        exported = exported_program(name, net, (blank,))
        if precision == "int8":
            exported = exported_program(
                name, quantise(exported, _batches(calibration, blank), "backbone"), (blank,)
            )
        return _lower_to_xnnpack(name, _decompose(exported), net, allow_portable)


class _Embedding(nn.Module):
    """Captures [batch, *capture_shape] -> (features [batch, features],), or with a head (scores [batch, classes],)."""

    front: fx.GraphModule

    def __init__(
        self, task: LearningTask, weights: NDArray[np.float32], modality: Modality, blank: Tensor, head: Head | None
    ) -> None:  # fmt: skip
        super().__init__()
        view = task.views[modality]
        front = lower(lambda captures: (view.plain(view.front(captures)),), (blank,))
        self.front = constants_on_the_right(front)
        self.backbone = bound_backbone(task, weights)
        self.head = bound_head(head)

    def forward(self, captures: Tensor) -> tuple[Tensor]:
        """See the class."""
        (view,) = self.front(captures)
        return (self.head(self.backbone(view)),)


def _check(task: LearningTask, weights: NDArray[np.float32], modality: Modality) -> None:
    if modality not in task.views:
        known = ", ".join(task.views)
        raise ExportError(f"the task has no view of {modality} captures; it learns from {known}.")
    if weights.shape != (task.layout.size,) or weights.dtype != np.float32:
        raise ExportError(
            f"the weights are {weights.dtype} {list(weights.shape)}, but {task.backbone} takes "
            f"float32 [{task.layout.size}]; take them from a run of the same backbone."
        )
    if not np.isfinite(weights).all():
        raise ExportError("the weights are not finite; take those of an earlier round.")


def _signature(task: LearningTask, modality: Modality, batch: int) -> tuple[str, Tensor]:
    """The method's name and a blank batch of captures."""
    method = embed_method(task, modality)
    captures = method.example[1]
    return method.name, torch.zeros((batch, *captures.shape[1:]), dtype=captures.dtype)


def _batches(calibration: NDArray[Any] | None, blank: Tensor) -> Iterator[Tensor]:
    """The calibration captures in batches like `blank`, all of them: the last batch may repeat some."""
    if calibration is None:
        raise ExportError("int8 needs captures to calibrate on; pass a hundred or more as `calibration`.")
    captures, size = torch.from_numpy(calibration), blank.shape[0]
    if captures.shape[1:] != blank.shape[1:] or captures.dtype != blank.dtype or len(captures) < size:
        raise ExportError(
            f"the calibration captures are {captures.dtype} {list(captures.shape)}; int8 needs {blank.dtype} "
            f"[n, {', '.join(map(str, blank.shape[1:]))}] with n at least the batch, {size}."
        )
    return (
        captures[start : start + size]
        for start in (*range(0, len(captures) - size, size), len(captures) - size)
    )


def _decompose(exported: ExportedProgram) -> ExportedProgram:
    """Into operators that XNNPACK takes; what depends on constants only is computed, but int8 weights stay int8."""
    from executorch.exir.operator.util import _QUANT_PRIMITIVES
    from executorch.exir.passes.constant_prop_pass import constant_prop_pass

    with torch.no_grad():
        decomposed = exported.run_decompositions(inference_decompositions())
        folded: ExportedProgram = constant_prop_pass(decomposed, custom_skip_targets=set(_QUANT_PRIMITIVES))
    return folded


def _lower_to_xnnpack(
    name: str, exported: ExportedProgram, source: nn.Module, allow_portable: bool
) -> Program:
    """Delegate with XNNPACK's stock partitioner: the learning step's would leave every bias outside as an input."""
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import EdgeCompileConfig, to_edge_transform_and_lower

    edge = to_edge_transform_and_lower(
        {name: exported},
        partitioner={name: [XnnpackPartitioner()]},
        compile_config=EdgeCompileConfig(_check_ir_validity=False),
    )
    return finish({name: edge.exported_program(name)}, {name: source}, allow_portable)

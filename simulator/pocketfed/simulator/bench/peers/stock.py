"""ExecuTorch's own way to train on a phone: its joint forward and backward export and its own SGD.

The route of the ExecuTorch documentation, without a delegate: backward operators run as portable kernels.
"""

import logging
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram

from pocketfed.core.errors import PeerError
from pocketfed.mobile_client.native_log import native_stderr_hidden
from pocketfed.simulator.bench.peers.peer import Workload


class StockTrainer:
    """ExecuTorch's training module."""

    def __init__(self, workload: Workload) -> None:
        self._views = workload.views.contiguous()
        self._program = _program(workload)  # the runtime reads from this memory as long as it lives
        with warnings.catch_warnings(), native_stderr_hidden():
            warnings.simplefilter("ignore")  # its own imports use deprecated functions
            from executorch.extension.pybindings import portable_lib
            from executorch.extension.training import (
                _load_for_executorch_for_training_from_buffer,
                get_sgd_optimizer,
            )

            portable_lib._unsafe_reset_threadpool(workload.threads)
            self._module = _load_for_executorch_for_training_from_buffer(self._program)
        self._new_optimiser: Callable[[], Any] = lambda: get_sgd_optimizer(
            self._module.named_parameters(),
            workload.learning_rate,
            workload.momentum,
            0.0,
            workload.weight_decay,
            False,
        )
        self._optimiser: Any = None

    def step(self) -> float:
        """See `Trainer`.

        Raises:
            PeerError: the runtime lacks a kernel.
        """
        try:
            loss: Tensor = self._module.forward_backward("forward", (self._views,))[0]
        except RuntimeError as error:
            raise PeerError(f"ExecuTorch cannot run its joint graph: {error}") from error
        before = loss.item()
        if self._optimiser is None:  # the parameters exist from the first step on
            self._optimiser = self._new_optimiser()
        self._optimiser.step(self._module.named_gradients())
        return before


def build(workload: Workload) -> StockTrainer:
    """Export the joint graph and load it.

    Raises:
        PeerError: the network cannot be exported, or changes buffers (then ExecuTorch 1.4.1 pairs gradients with
            the wrong parameters).
    """
    return StockTrainer(workload)


def _silu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(x)


def _program(workload: Workload) -> bytes:
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _export(workload)
    except (RuntimeError, TypeError, ValueError) as error:
        raise PeerError(f"ExecuTorch cannot export a joint graph: {error}") from error
    finally:
        logging.disable(disabled)


def _export(workload: Workload) -> bytes:
    from executorch.exir import EdgeCompileConfig, to_edge
    from torch.export.experimental import _export_forward_backward

    exported = torch.export.export(workload.module, (workload.views,), strict=False)
    # The runtime has no kernel of what the gradient of SiLU allocates, aten::empty_permuted.
    exported = exported.run_decompositions({torch.ops.aten.silu.default: _silu})
    if exported.graph_signature.buffers_to_mutate:
        raise PeerError(f"ExecuTorch cannot train a network that changes its buffers: {_mutated(exported)}")
    edge = to_edge(
        _export_forward_backward(exported), compile_config=EdgeCompileConfig(_check_ir_validity=False)
    )
    return bytes(edge.to_executorch().buffer)


def _mutated(exported: ExportedProgram) -> str:
    return ", ".join(exported.graph_signature.buffers_to_mutate.values())

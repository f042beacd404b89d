"""Programs built from small graphs, run on the ExecuTorch runtime itself."""

import inspect
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx import traceback

from pocketfed.core.errors import ExportError
from pocketfed.core.objectives import nt_xent
from pocketfed.export.executorch import Program, build_program
from pocketfed.export.inspection import inspect_program
from pocketfed.export.lowering import lower


def run(program: Program, method: str, inputs: Sequence[Tensor]) -> list[Tensor]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from executorch.extension.pybindings.portable_lib import _load_for_executorch_from_buffer
    module = _load_for_executorch_from_buffer(program.buffer)
    return [output.clone() for output in module.run_method(method, tuple(inputs))]


CHANNELS = 8


def tiny_loss(theta: Tensor, photos: Tensor, temperature: Tensor) -> Tensor:
    """NT-Xent of two views (one of them the negative) of photos uint8 [n, 8, 8, 3] under a network of two convolutions."""
    first, second = theta[: 27 * CHANNELS], theta[27 * CHANNELS :]
    x = photos.to(torch.float32).permute(0, 3, 1, 2) * (1.0 / 255.0)
    x = torch.cat([x, 1.0 - x])  # [2n, 3, 8, 8]
    x = F.relu(F.group_norm(F.conv2d(x, first.reshape(CHANNELS, 3, 3, 3), padding=1), 2))
    x = F.conv2d(x, second.reshape(CHANNELS, CHANNELS, 3, 3), stride=2, padding=1)
    z = F.relu(F.group_norm(x, 2)).mean((2, 3))
    count = photos.shape[0]
    return nt_xent(z[:count], z[count:], temperature, torch.ones(count))


def tiny_step(theta: Tensor, momentum: Tensor, photos: Tensor, hyper: Tensor) -> tuple[Tensor, ...]:
    weights = theta.detach().requires_grad_()
    loss = tiny_loss(weights, photos, hyper[1])
    (gradient,) = torch.autograd.grad(loss, [weights])
    momentum = 0.9 * momentum + gradient
    return loss.detach(), theta - hyper[0] * momentum, momentum


def tiny_inputs() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    theta = 0.2 * torch.randn(27 * CHANNELS + 9 * CHANNELS**2, generator=generator)
    photos = torch.randint(0, 256, (4, 8, 8, 3), dtype=torch.uint8, generator=generator)
    return [theta, torch.zeros_like(theta), photos, torch.tensor([0.05, 0.5])]


@pytest.fixture(scope="module")
def program() -> Program:
    step, double = tuple(tiny_inputs()), (torch.ones(3),)
    return build_program(
        {
            "step": (lower(tiny_step, step), step),
            "double": (lower(lambda x: (2 * x,), double), double),
        }
    )


def test_a_step_is_one_delegate(program: Program) -> None:
    """Nothing but the cast of the photo's bytes is left outside."""
    parts = inspect_program(program.buffer)["step"]
    assert parts.delegates == ("XnnpackBackend",)
    assert parts.slow == {}
    assert sum(parts.kernels.values()) == 1


def test_a_program_holds_several_methods(program: Program) -> None:
    assert program.methods == ("step", "double")
    parts = inspect_program(program.buffer)
    assert parts.keys() == {"step", "double"}
    assert parts["double"].kernels == {}
    assert torch.equal(run(program, "double", [torch.arange(3.0)])[0], 2 * torch.arange(3.0))


def test_three_steps_on_the_runtime_equal_eager(program: Program) -> None:
    inputs, reference = tiny_inputs(), tiny_inputs()
    for _ in range(3):
        loss, inputs[0], inputs[1] = run(program, "step", inputs)
        expected, reference[0], reference[1] = tiny_step(*reference)
        torch.testing.assert_close(loss, expected, rtol=0, atol=1e-6)
        assert float((inputs[0] - reference[0]).norm() / reference[0].norm()) < 1e-5


def exported(function: Any, inputs: tuple[Tensor, ...], allow_portable: bool = False) -> Program:
    return build_program({"forward": (lower(lambda *x: (function(*x),), inputs), inputs)}, allow_portable)


def test_an_operator_that_nothing_covers_is_named() -> None:
    def sort(x: Tensor) -> Tensor:
        return torch.sort(x * 2.0)[0]

    with pytest.raises(
        ExportError, match=r"(?s)'forward': aten\.sort.*test_executorch\.py:\d+ in .*allow_portable"
    ):
        exported(sort, (torch.randn(4, 8),))


def test_portable_kernels_can_be_accepted() -> None:
    inputs = (torch.randn(4, 8),)
    program = exported(lambda x: torch.cumsum(x * 2.0, 1), inputs, allow_portable=True)
    assert inspect_program(program.buffer)["forward"].kernels == {"aten::cumsum": 1}
    torch.testing.assert_close(run(program, "forward", inputs)[0], torch.cumsum(inputs[0] * 2.0, 1))


def test_a_convolution_that_was_not_lowered_is_refused() -> None:
    class Convolution(nn.Module):
        def forward(self, x: Tensor, weight: Tensor) -> Tensor:
            return F.conv2d(x, weight)

    inputs = (torch.randn(1, 2, 5, 5), torch.randn(3, 2, 3, 3))
    with pytest.raises(ExportError, match="convolution"):
        build_program({"forward": (Convolution(), inputs)})


def test_a_module_that_cannot_be_exported_is_an_export_error() -> None:
    class Decides(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if x.sum() > 0 else -x

    with pytest.raises(ExportError, match="'forward' cannot be exported"):
        build_program({"forward": (Decides(), (torch.randn(3),))})


def test_private_parts_are_as_we_know_them() -> None:
    """If one of these fails after an upgrade, look at `_ShallowSource` and `_EagerConstants`."""
    parameters: Mapping[str, Any] = inspect.signature(traceback.NodeSource.__init__).parameters
    assert list(parameters) == ["self", "node", "pass_name", "action"]
    assert "NodeSource(" in inspect.getsource(traceback.set_current_meta)
    from torch.utils._python_dispatch import _disable_current_modes

    assert callable(_disable_current_modes)

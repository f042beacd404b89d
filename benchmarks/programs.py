"""Every backbone's learning step as a program: exported, run on ExecuTorch, and compared with eager PyTorch.

    python benchmarks/programs.py
    python benchmarks/programs.py repvgg ghost timm:mobilenetv3_small_050 --modality sound --batch 8

Small inputs and batches, since networks are what is compared. Three steps at the usual learning rate; the differences
are relative, those of weights are of what the steps changed. Beside them, those of two eager runs whose first weights
are one rounding apart. Ends with 1 if a network cannot be exported, or parts from eager by more than ten times that.
"""

import gc
import time
from functools import partial
from typing import Annotated

import numpy as np
import typer

from pocketfed.core.backbones import PHONES, register
from pocketfed.core.backbones.van import PHONE, Kernels, Van
from pocketfed.core.errors import ConfigError, ExportError
from pocketfed.core.hyper import Hyper
from pocketfed.core.learning_step import methods
from pocketfed.core.learning_task import initial_weights, learning_task
from pocketfed.core.modality import Modality
from pocketfed.core.views import PhotoView, SoundView, View
from pocketfed.export.inspection import MethodParts, inspect_program
from pocketfed.export.program import task_program
from pocketfed.mobile_client.runtime import Array, ExecutorchRuntime, TorchRuntime
from pocketfed.simulator.bench.agreement import Agreement, Verdict, agree

FORMS = tuple(f"{name}-{form}" for name in ("repvgg", "ghost") for form in ("target", "csla", "rep", "hs"))

TIMM = (
    "timm:mobilenetv3_small_050", "timm:mobilenetv3_small_100", "timm:ghostnet_050", "timm:repvgg_a0",
    "timm:convnext_atto",
)  # fmt: skip

for kind in (Kernels.LKA, Kernels.LKA_TRIVIAL, Kernels.LSKA_TRIVIAL):
    register(f"van-{kind}", partial(Van, PHONE, kind, 11), features=128)

ALL = (*PHONES, "van-lka", "van-lka-trivial", "van-lska-trivial", *FORMS, "vit_tiny", *TIMM)


def main(
    backbones: Annotated[
        list[str] | None, typer.Argument(help="Networks. [default: all phone sizes]")
    ] = None,
    modality: Annotated[str, typer.Option(help="photo or sound.")] = "photo",
    side: Annotated[int, typer.Option(help="Of a photo, and of bands; frames are half as many more.")] = 16,
    batch: Annotated[int, typer.Option(help="Captures per step; each gives two views.")] = 8,
    steps: Annotated[int, typer.Option(help="Of training.")] = 3,
    rate: Annotated[float, typer.Option(help="Learning rate.")] = Hyper().learning_rate,
) -> None:
    """Print a Markdown table, a row as soon as it is known."""
    print(
        "| backbone | side | export, s | .pte, MB | arena, MB | delegates | loss | weights | eager, nudged: loss, weights | |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|", flush=True)
    failed = False
    for name in backbones or ALL:
        least = 32 if name.startswith("timm:") or name == "vit_tiny" else side
        try:
            line, holds = row(name, Modality(modality), least, batch, steps, rate)
        except (ConfigError, ExportError) as error:
            line, holds = f"{least} | {str(error).splitlines()[0]}", False
        print(f"| `{name}` | {line} |", flush=True)
        failed |= not holds
        gc.collect()
    raise typer.Exit(int(failed))


def row(name: str, modality: Modality, side: int, batch: int, steps: int, rate: float) -> tuple[str, bool]:
    """What the table says of a network, and whether it agrees with eager."""
    view: View = (
        PhotoView(side=side) if modality is Modality.PHOTO else SoundView(height=side, width=3 * side // 2)
    )
    task = learning_task(name, {modality: view}, batch)
    began = time.perf_counter()
    program = task_program(task, mixed=False)
    seconds = time.perf_counter() - began
    step, _ = methods(task)
    parts = inspect_program(program)[step.name]
    rng = np.random.default_rng(0)
    theta = initial_weights(task, seed=0)
    captures: Array = (
        rng.integers(0, 256, step.example[3].shape, dtype=np.uint8)
        if modality is Modality.PHOTO
        else (0.1 * rng.standard_normal(step.example[3].shape)).astype(np.float32)
    )
    noise = rng.random(step.example[4].shape, dtype=np.float32)
    state = np.zeros(task.state_size, dtype=np.float32)
    inputs = [theta, state, theta.copy(), captures, noise, Hyper(learning_rate=rate).vector([batch])]
    verdict = agree(
        ExecutorchRuntime(program), TorchRuntime([step]), step.name, inputs, task.layout.trained, steps
    )
    return _cells(side, seconds, len(program), parts, verdict), verdict.holds


def _cells(side: int, seconds: float, size: int, parts: MethodParts, verdict: Verdict) -> str:
    cells = [
        str(side), f"{seconds:.0f}", f"{size / 1e6:.2f}", f"{parts.arena_bytes / 1e6:.2f}", str(len(parts.delegates)),
        *_errors(verdict.program), ", ".join(_errors(verdict.nudged)), "" if verdict.holds else "**parts**",
    ]  # fmt: skip
    return " | ".join(cells)


def _errors(agreement: Agreement) -> tuple[str, str]:
    return f"{agreement.loss:.0e}", f"{agreement.change:.0e}"


if __name__ == "__main__":
    typer.run(main)

"""What fusing AudioRepInceptionNeXt's branches is worth: python benchmarks/fusing.py

Embedding one capture on one thread, with the branches as they are trained and with one kernel for each axis: in eager
PyTorch, as an inference program on ExecuTorch (XNNPACK), and as multiply-adds. All four take turns in one process.
Prints a Markdown table. Run it on a quiet machine.
"""

from collections.abc import Callable
from functools import partial
from typing import Annotated

import numpy as np
import torch
import typer
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from pocketfed.core.backbones import BACKBONES, register
from pocketfed.core.backbones.audio_inception_next import FULL, PHONE, Block, Size, Trunk
from pocketfed.core.backbones.audio_rep_inception_next import AudioRepInceptionNeXt, RepBlock
from pocketfed.core.captures import embedded_photos, embedded_sounds
from pocketfed.core.learning_task import initial_weights, learning_task
from pocketfed.core.modality import Modality
from pocketfed.core.views import PhotoView, SoundView, View
from pocketfed.export.bound import bound_backbone
from pocketfed.export.inference import export_inference
from pocketfed.mobile_client.runtime import ExecutorchRuntime
from pocketfed.simulator.bench.timing import interleaved, summary


class BranchedBlock(Block):
    """A `RepBlock` that does not know how to fuse: [n, i, b, t] -> [n, c, b/stride, t/stride]."""

    def forward(self, x: Tensor) -> Tensor:
        """[n, i, b, t] -> [n, c, b/stride, t/stride]."""
        return RepBlock.forward(self, x)  # type: ignore[arg-type]


VIEWS: dict[Modality, View] = {Modality.PHOTO: PhotoView(), Modality.SOUND: SoundView()}
SIZES: dict[str, tuple[Size, int]] = {"phone": (PHONE, 256), "full": (FULL, 512)}


def main(
    sizes: Annotated[list[str] | None, typer.Argument(help="phone, full. [default: phone]")] = None,
    rounds: Annotated[int, typer.Option(help="Counted turns of each contestant.")] = 100,
) -> None:
    """Print the table, a row as soon as it is measured."""
    torch.set_num_threads(1)
    print("| size | capture | | eager ms | XNNPACK ms | M products | parameters |")
    print("|---|---|---|---|---|---|---|", flush=True)
    for name in sizes or ["phone"]:
        size, features = SIZES[name]
        register("branched", partial(Trunk, BranchedBlock, size), features)
        register("fused", partial(AudioRepInceptionNeXt, size), features)
        for modality in VIEWS:
            for line in lines(modality, rounds):
                print(f"| {name} | {line} |", flush=True)
        for used in ("branched", "fused"):
            BACKBONES.pop(used)


def lines(modality: Modality, rounds: int) -> list[str]:
    """Cells of the table for one modality: branches, fused, and how the times compare."""
    captures = (embedded_photos if modality is Modality.PHOTO else embedded_sounds)(64).train.items[:1]
    tasks = {
        name: learning_task(name, {modality: VIEWS[modality]}, batch=4) for name in ("branched", "fused")
    }
    view = VIEWS[modality]
    inputs = view.plain(view.front(torch.from_numpy(captures)))
    networks: dict[str, nn.Module] = {}
    contestants: dict[str, Callable[[], object]] = {}
    for name, task in tasks.items():
        weights = initial_weights(task, seed=0)  # the same for both
        networks[name] = bound_backbone(task, weights)
        program = export_inference(task, weights, modality, 1)
        runtime = ExecutorchRuntime(program.buffer, 1)
        contestants[f"eager {name}"] = torch.no_grad()(partial(networks[name], inputs))
        contestants[f"xnnpack {name}"] = partial(runtime.run, f"embed_{modality}", [captures])
    first, second = (network(inputs) for network in networks.values())
    np.testing.assert_allclose(first.detach(), second.detach(), rtol=1e-3, atol=1e-4)
    ms = {name: summary(times)["median_ms"] for name, times in interleaved(contestants, rounds).items()}
    shown = [
        f"{modality} | {name} | {ms[f'eager {name}']:.2f} | {ms[f'xnnpack {name}']:.2f} | "
        f"{_products(network, inputs) / 1e6:.1f} | {sum(part.numel() for part in network.parameters()):,}"
        for name, network in networks.items()
    ]
    saved = (f"{ms[f'{engine} fused'] / ms[f'{engine} branched']:.2f}" for engine in ("eager", "xnnpack"))
    return [*shown, f"{modality} | fused of branched | {' | '.join(saved)} | | "]


def _products(network: nn.Module, inputs: Tensor) -> int:
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        network(inputs)
    return counter.get_total_flops() // 2


if __name__ == "__main__":
    typer.run(main)

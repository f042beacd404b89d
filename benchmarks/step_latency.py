"""A learning step on ExecuTorch against its eager twin, interleaved, one thread: python benchmarks/step_latency.py

Times of one run are only comparable with each other. Run it on a quiet machine; MALLOC_MMAP_MAX_=0 in the environment
keeps eager PyTorch from spending its time on page faults.
"""

import statistics
import time
from typing import Annotated

import numpy as np
import torch
import typer

from pocketfed.core.learning_step import Method, methods
from pocketfed.core.learning_task import initial_weights, learning_task
from pocketfed.core.modality import Modality
from pocketfed.core.views import PhotoView, SoundView
from pocketfed.export.program import task_program
from pocketfed.mobile_client.runtime import Array, ExecutorchRuntime, Runtime, TorchRuntime


def inputs_of(method: Method, weights: Array, seed: int) -> list[Array]:
    """Weights and random captures and noise, in the method's shapes."""
    rng = np.random.default_rng(seed)
    inputs: list[Array] = [weights]
    for example in method.example[1:]:
        shape = tuple(example.shape)
        if example.dtype == torch.uint8:
            inputs.append(rng.integers(0, 256, shape, dtype=np.uint8))
        elif len(shape) == 1:
            inputs.append(example.numpy())
        else:
            inputs.append(rng.random(shape, dtype=np.float32))
    return inputs


def main(
    batch: Annotated[int, typer.Option(help="Captures per step; each gives two views.")] = 32,
    rounds: Annotated[int, typer.Option(help="Interleaved measurements of each.")] = 15,
) -> None:
    """Print the median of each method on both runtimes, and their ratio."""
    torch.set_num_threads(1)
    task = learning_task("compact", {Modality.PHOTO: PhotoView(), Modality.SOUND: SoundView()}, batch)
    every = methods(task)
    began = time.perf_counter()
    program = task_program(task, mixed=False)
    print(f"program of {len(program) / 1e6:.2f} MB, exported or read in {time.perf_counter() - began:.0f} s")
    runtimes: dict[str, Runtime] = {"ExecuTorch": ExecutorchRuntime(program), "eager": TorchRuntime(every)}
    print(f"{'method':<12} {'ExecuTorch ms':>14} {'eager ms':>9} {'ratio':>6}")
    for method in every:
        inputs = inputs_of(method, initial_weights(task, 0), 0)
        times: dict[str, list[float]] = {name: [] for name in runtimes}
        for i in range(rounds + 2):
            for name, runtime in runtimes.items():
                began = time.perf_counter()
                runtime.run(method.name, inputs)
                if i >= 2:  # the first ones allocate
                    times[name].append(1e3 * (time.perf_counter() - began))
        ours, theirs = (statistics.median(times[name]) for name in runtimes)
        print(f"{method.name:<12} {ours:>14.1f} {theirs:>9.1f} {ours / theirs:>6.2f}", flush=True)


if __name__ == "__main__":
    typer.run(main)

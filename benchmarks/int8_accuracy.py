"""What int8 costs in accuracy, on the captures and with the encoders of finished runs.

    python benchmarks/int8_accuracy.py runs/accuracy/seed-0
    python benchmarks/int8_accuracy.py runs/resnet runs/van

A run's last checkpoint is exported twice for inference, float32 and int8, and both programs embed the run's labelled
captures. int8 is calibrated on captures that were trained on; accuracy is judged on the others.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer

from pocketfed.core.captures import Split
from pocketfed.core.errors import RunFolderError
from pocketfed.core.evaluation import Features, clip_labels, is_labelled, judge
from pocketfed.export.inference import export_inference
from pocketfed.simulator.bench.features import features_of
from pocketfed.simulator.program import task_of
from pocketfed.simulator.run_folder import reopen
from pocketfed.simulator.simulate import load_captures

BATCH = 32


def main(
    runs: Annotated[
        list[Path], typer.Argument(help="Run folders of `pocketfed simulate`, with labelled captures.")
    ],
    calibration: Annotated[
        int, typer.Option(help="Captures of the training part to calibrate int8 on.")
    ] = 256,
) -> None:
    """Print accuracy in both precisions, and how close their features are, a row as soon as it is known."""
    torch.set_num_threads(1)
    print("| backbone, rounds | captures | precision | k-NN | linear probe | cosine: mean, least | MB |")
    print("|---|---|---|---|---|---|---|", flush=True)
    for run in runs:
        for row in _rows(run, calibration):
            print(f"| {' | '.join(row)} |", flush=True)


def _rows(run: Path, calibration: int) -> Iterator[tuple[str, ...]]:
    """Of one run, for each modality and precision."""
    _, config, checkpoint = reopen(run)
    if checkpoint is None:
        raise RunFolderError(f"{run} has no checkpoint; let the run finish a round first")
    splits = load_captures(config)
    task = task_of(config, list(splits))
    for modality, split in splits.items():
        if not is_labelled(split):
            continue
        reference: Features | None = None
        for precision in ("float32", "int8"):
            program = export_inference(
                task, checkpoint.weights, modality, BATCH, precision=precision,
                calibration=_sample(split, calibration),
            )  # fmt: skip
            bank, test = (features_of(program, captures, BATCH) for captures in (split.train, split.test))
            reference = test if reference is None else reference
            accuracy = judge(bank, clip_labels(split.train), test, clip_labels(split.test))
            cosine = _cosine(test, reference)
            yield (
                f"`{config.learning.backbone}`, {checkpoint.round}", f"{modality}s ({len(test)})", precision,
                f"{100 * accuracy.knn:.1f}", f"{100 * accuracy.probe:.1f}",
                f"{cosine.mean():.5f}, {cosine.min():.5f}", f"{len(program.buffer) / 1e6:.2f}",
            )  # fmt: skip


def _sample(split: Split, count: int) -> "np.ndarray[tuple[int, ...], np.dtype[np.generic]]":
    """Captures of the training part, drawn at random, always the same."""
    chosen = np.random.default_rng(0).permutation(len(split.train))[:count]
    return split.train.items[chosen]


def _cosine(a: Features, b: Features) -> "np.ndarray[tuple[int], np.dtype[np.float32]]":
    """[n, features] twice -> [n]."""
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return (a * b).sum(1) / lengths  # type: ignore[no-any-return]


if __name__ == "__main__":
    typer.run(main)

"""What federated training gains over the untrained encoder, over several seeds.

    python benchmarks/accuracy.py --config configs/cifar10-arabic.toml --photos cifar10_subset.npz \
        --sounds arabic_speech_commands10_16k.npz --also esc10_16k.npz --seeds 3 --out runs/accuracy

Each seed changes weights, partition, augmentation and order together; a gain is taken against the untrained encoder
of the same seed. Sounds given with --also are never trained on: they show what carries over.
"""

from collections import defaultdict
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.table import Table

from pocketfed.core.captures import load_sounds
from pocketfed.core.evaluation import evaluate
from pocketfed.server.checkpoint import load_checkpoint, path_of
from pocketfed.simulator import run_folder
from pocketfed.simulator.config_file import build_config, overlay, read_toml
from pocketfed.simulator.display import Display
from pocketfed.simulator.program import task_of
from pocketfed.simulator.simulate import simulate
from pocketfed.simulator.terminal import Terminal

Pairs = dict[tuple[str, str], list[tuple[float, float]]]
"""{(captures, measure): [(untrained, trained) of each seed]}, shares of correct answers."""


def main(
    config: Annotated[Path, typer.Option(help="As for `pocketfed simulate`.")],
    photos: Annotated[Path, typer.Option(help="Photos to train on.")],
    sounds: Annotated[Path, typer.Option(help="Sounds to train on.")],
    out: Annotated[Path, typer.Option(help="Folder for the runs, one a seed.")],
    also: Annotated[Path | None, typer.Option(help="Labelled sounds to judge by, not to train on.")] = None,
    seeds: Annotated[int, typer.Option(help="Seeds 0, 1, ...")] = 3,
    runtime: Annotated[str, typer.Option(help="executorch or torch.")] = "executorch",
    aggregator: Annotated[str | None, typer.Option(help="In place of the configuration's.")] = None,
) -> None:
    """Train with each seed, then print the table of means and ranges."""
    console = Terminal()
    pairs: Pairs = defaultdict(list)
    losses: dict[str, list[float]] = defaultdict(list)
    for seed in range(seeds):
        flags = {
            "captures.photos": str(photos.resolve()), "captures.sounds": str(sounds.resolve()), "seed": seed,
            "runtime": runtime, "aggregator": aggregator,
        }  # fmt: skip
        settings = build_config(overlay(read_toml(config), flags))
        path = out / f"seed-{seed}"
        with Display(console) as display:
            display.expect(settings.rounds)
            folder = simulate(settings, path, display, resume=(path / "config.toml").exists())
        records = run_folder.read_metrics(folder, settings.rounds)
        for measure, title in (("knn", "k-NN"), ("probe", "linear probe")):
            for modality, before in records[0][measure].items():
                pairs[f"{modality}s", title].append((before, records[-1][measure][modality]))
        for modality, loss in records[-1]["loss"].items():
            losses[modality].append(loss)
        if also:
            split = load_sounds(also, settings.captures.seconds)
            task = task_of(settings, [split.train.modality])
            before, after = (
                evaluate(task, load_checkpoint(path_of(folder.checkpoints, r)).weights, split)
                for r in (0, settings.rounds)
            )
            if before is None or after is None:
                raise typer.Exit(1)
            pairs[also.stem, "k-NN"].append((before.knn, after.knn))
            pairs[also.stem, "linear probe"].append((before.probe, after.probe))
    console.print(_table(pairs, seeds))
    for modality, values in losses.items():
        console.print(f"loss of the last round, {modality}: {np.mean(values):.2f} ({_span(values)})")


def _table(pairs: Pairs, seeds: int) -> Table:
    table = Table(
        title=f"mean (range) over {seeds} seeds, %; gain in points over the same seed's untrained encoder"
    )
    for heading in ("captures", "measure", "untrained", "trained", "gain"):
        table.add_column(heading)
    for (captures, measure), values in pairs.items():
        before, after = 100 * np.asarray(values).T
        cells = [f"{column.mean():.1f} ({_span(column)})" for column in (before, after)]
        gain = after - before
        table.add_row(
            captures, measure, *cells, f"{gain.mean():+.1f} ({gain.min():+.1f} to {gain.max():+.1f})"
        )
    return table


def _span(values: "list[float] | np.ndarray[tuple[int], np.dtype[np.float64]]") -> str:
    digits = 2 if max(values) < 10 else 1
    return f"{min(values):.{digits}f}–{max(values):.{digits}f}"


if __name__ == "__main__":
    typer.run(main)

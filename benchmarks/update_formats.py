"""What small updates cost in accuracy, over several seeds.

    python benchmarks/update_formats.py --config configs/small-updates.toml --photos cifar10_subset.npz \
        --sounds arabic_speech_commands10_16k.npz --seeds 3 --out runs/formats

Every way to travel trains with the same seeds: the same weights to begin with, partition, order and augmentation. A
difference is taken to the float32 run of the same seed.
"""

from collections import defaultdict
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.table import Table

from pocketfed.simulator import run_folder
from pocketfed.simulator.config_file import build_config, overlay, read_toml
from pocketfed.simulator.display import Display
from pocketfed.simulator.run_folder import Record
from pocketfed.simulator.simulate import simulate
from pocketfed.simulator.terminal import Terminal

WAYS: dict[str, dict[str, Any]] = {
    "float32": {},
    "float16": {"exchange.update_format": "float16"},
    "int8": {"exchange.update_format": "int8"},
    "int8, float16 down": {"exchange.update_format": "int8", "exchange.download_format": "float16"},
}


def main(
    config: Annotated[Path, typer.Option(help="As for `pocketfed simulate`.")],
    photos: Annotated[Path, typer.Option(help="Photos to train on.")],
    sounds: Annotated[Path, typer.Option(help="Sounds to train on.")],
    out: Annotated[Path, typer.Option(help="Folder for the runs; finished ones in it are not run again.")],
    seeds: Annotated[int, typer.Option(help="Seeds 0, 1, ...")] = 3,
) -> None:
    """Train each way with each seed, then print the table."""
    console = Terminal()
    found: dict[str, list[list[Record]]] = defaultdict(list)
    for seed in range(seeds):
        for way, flags in WAYS.items():
            captures = {"captures.photos": str(photos.resolve()), "captures.sounds": str(sounds.resolve())}
            settings = build_config(overlay(read_toml(config), {**captures, "seed": seed, **flags}))
            path = out / f"{way.replace(', ', '-').replace(' ', '-')}-{seed}"
            with Display(console) as display:
                display.expect(settings.rounds)
                folder = simulate(settings, path, display, resume=(path / "config.toml").exists())
            found[way].append(run_folder.read_metrics(folder, settings.rounds))
    console.print(_table(found, seeds))


def _table(found: dict[str, list[list[Record]]], seeds: int) -> Table:
    table = Table(
        title=f"mean (range) over {seeds} seeds, %; difference in points to float32 of the same seed"
    )
    measures = [(m, modality) for m in ("knn", "probe") for modality in found["float32"][0][0]["knn"]]
    names = [f"{modality}s, {'k-NN' if m == 'knn' else 'probe'}" for m, modality in measures]
    for heading in ("travels as", "bytes up", "bytes down", "loss of photos, sounds", *names):
        table.add_column(heading)
    for way, runs in found.items():
        last = [records[-1] for records in runs]
        sizes = [f"{last[0][key] // last[0]['phones']:,}" for key in ("bytes_up", "bytes_down")]
        losses = ", ".join(f"{np.mean([r['loss'][m] for r in last]):.2f}" for m in last[0]["loss"])
        cells = []
        for measure, modality in measures:
            values = 100 * np.asarray([record[measure][modality] for record in last])
            reference = 100 * np.asarray([r[-1][measure][modality] for r in found["float32"]])
            apart = values - reference
            cells.append(
                f"{values.mean():.1f} ({values.min():.1f}–{values.max():.1f})"
                + (f"; {apart.mean():+.1f} ({apart.min():+.1f} to {apart.max():+.1f})" if apart.any() else "")
            )
        table.add_row(way, *sizes, losses, *cells)
    return table


if __name__ == "__main__":
    typer.run(main)

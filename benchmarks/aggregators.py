"""What each aggregation rule makes of captures that differ from phone to phone, over several seeds.

    python benchmarks/aggregators.py --photos cifar10_subset.npz --sounds arabic_speech_commands10_16k.npz \
        --out runs/aggregators --json aggregators.json

Each run is a folder below --out; a run that is finished is read and not repeated, and one that was stopped goes on.
So the table can be made piece by piece: --rules and --seeds choose what to run, and what is there is shown.
"""

import json
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.table import Table

from pocketfed.simulator import run_folder
from pocketfed.simulator.config import Config
from pocketfed.simulator.config_file import build_config, overlay, read_toml
from pocketfed.simulator.display import Display
from pocketfed.simulator.run_folder import Record, RunFolder
from pocketfed.simulator.simulate import simulate
from pocketfed.simulator.terminal import Terminal

RULES: dict[str, dict[str, Any]] = {
    "fedavg": {},
    "ldawa": {"aggregator": "ldawa"},
    "ldawa-normalised": {"aggregator": "ldawa-normalised"},
    "fedvssl": {"aggregator": "fedvssl"},
    "fedvssl-backbone": {"aggregator": "fedvssl", "exchange.travels": ["backbone", "buffer"]},
    "fedprox": {"learning.proximal": 1.0},
    "fedavgm": {"aggregator": "fedavgm"},
    "fedadam": {"aggregator": "fedadam"},
}
"""What each row changes in the configuration."""

COLUMNS = [(modality, measure) for modality in ("photo", "sound") for measure in ("knn", "probe")]
TITLES = {"knn": "k-NN", "probe": "probe"}


def main(
    photos: Annotated[Path, typer.Option(help="Photos to train on.")],
    sounds: Annotated[Path, typer.Option(help="Sounds to train on.")],
    out: Annotated[Path, typer.Option(help="Folder for the runs.")],
    config: Annotated[Path, typer.Option(help="As for `pocketfed simulate`.")] = Path(
        "configs/cifar10-arabic.toml"
    ),
    rules: Annotated[str, typer.Option(help="By comma.")] = ",".join(RULES),
    seeds: Annotated[str, typer.Option(help="By comma.")] = "0,1,2",
    rounds: Annotated[int, typer.Option(help="Of each run.")] = 8,
    photos_limit: Annotated[int, typer.Option(help="Photos to train on; 0: all.")] = 1000,
    sound_epochs: Annotated[int, typer.Option(help="Passes over a phone's sounds in a round.")] = 1,
    runtime: Annotated[str, typer.Option(help="executorch or torch.")] = "executorch",
    json_file: Annotated[Path | None, typer.Option("--json", help="Write all figures here.")] = None,
) -> None:
    """Run what is not there yet, one run at a time in one worker process, then print the table of all that is."""
    console = Terminal()
    chosen = [(rule, int(seed)) for seed in seeds.split(",") for rule in rules.split(",")]
    for number, (rule, seed) in enumerate(chosen, 1):
        settings = build_config(
            overlay(
                read_toml(config),
                {
                    "captures.photos": str(photos.resolve()),
                    "captures.sounds": str(sounds.resolve()),
                    "rounds": rounds,
                    "captures.photos_limit": photos_limit,
                    "learning.sound_epochs": sound_epochs,
                    "seed": seed,
                    "runtime": runtime,
                    "workers": 1,
                    "evaluate_every": 0,
                    **RULES[rule],
                },
            )
        )
        console.print(f"{number} of {len(chosen)}: {rule}, seed {seed}")
        _run(settings, out / rule / f"seed-{seed}", console)
    found = [figures for rule in RULES for figures in _figures(out / rule, rule)]
    console.print(_table(found))
    if json_file:
        json_file.write_text(json.dumps(found, indent=1) + "\n")


def _run(settings: Config, path: Path, console: Terminal) -> None:
    begun = (path / "config.toml").exists()
    if begun and _finished(run_folder.read_metrics(RunFolder(path), settings.rounds), settings.rounds):
        return
    with Display(console) as display:
        display.expect(settings.rounds)
        simulate(settings, path, display, resume=begun)


def _finished(records: list[Record], rounds: int) -> bool:
    return bool(records) and records[-1]["round"] == rounds and "knn" in records[-1]


def _figures(folder: Path, rule: str) -> list[dict[str, Any]]:
    """Of the finished runs of a rule: accuracy (shares) before and after, and the last loss."""
    found = []
    for path in sorted(folder.glob("seed-*")):
        settings = run_folder.read_config(RunFolder(path))
        records = run_folder.read_metrics(RunFolder(path), settings.rounds)
        if _finished(records, settings.rounds):
            first, last = records[0], records[-1]
            found.append(
                {
                    "rule": rule,
                    "seed": settings.seed,
                    "untrained": {measure: first[measure] for measure in TITLES},
                    "trained": {measure: last[measure] for measure in TITLES},
                    "loss": last["loss"],
                    "seconds": round(sum(record["seconds"] for record in records), 1),
                }
            )
    return found


def _table(found: list[dict[str, Any]]) -> Table:
    table = Table(title="trained, %: mean (range over seeds); gain in points over the same seeds untrained")
    for heading in ("rule", "seeds", *(f"{modality}s, {TITLES[measure]}" for modality, measure in COLUMNS)):
        table.add_column(heading)
    for rule in RULES:
        if runs := [run for run in found if run["rule"] == rule]:
            cells = [_cell(runs, modality, measure) for modality, measure in COLUMNS]
            table.add_row(rule, str(len(runs)), *cells)
    return table


def _cell(runs: list[dict[str, Any]], modality: str, measure: str) -> str:
    before, after = (
        100 * np.array([run[when][measure][modality] for run in runs]) for when in ("untrained", "trained")
    )
    return f"{after.mean():.1f} ({after.min():.1f}–{after.max():.1f}), {(after - before).mean():+.1f}"


if __name__ == "__main__":
    typer.run(main)

"""`pocketfed simulate`."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from pocketfed.simulator.terminal import Terminal


def simulate(
    config: Annotated[
        Path | None, typer.Option(help="TOML file; the other options go over it. `configs/` has examples.")
    ] = None,
    photos: Annotated[
        Path | None, typer.Option(help="Folder of jpg, png or webp (sub-folders are classes), or an .npz.")
    ] = None,
    sounds: Annotated[
        Path | None, typer.Option(help="Folder of wav, flac or ogg (sub-folders are classes), or an .npz.")
    ] = None,
    phones: Annotated[int | None, typer.Option(help="Emulated phones. \\[default: 10]")] = None,
    rounds: Annotated[int | None, typer.Option(help="Federated rounds. \\[default: 10]")] = None,
    alpha: Annotated[
        float | None,
        typer.Option(help="Dirichlet skew of classes over phones: small is skewed. \\[default: 0.1]"),
    ] = None,
    aggregator: Annotated[
        str | None,
        typer.Option(
            help="fedavg, fedadam, ldawa, median, ...; docs/aggregation.md has all. \\[default: fedavg]"
        ),
    ] = None,
    backbone: Annotated[str | None, typer.Option(help="Network to train. \\[default: compact]")] = None,
    mode: Annotated[
        str | None,
        typer.Option(
            help="sequential: one modality a batch; mixed: both, as negatives. \\[default: sequential]"
        ),
    ] = None,
    optimiser: Annotated[
        str | None, typer.Option(help="sgd, sgd-nesterov or adamw. \\[default: sgd]")
    ] = None,
    update_format: Annotated[
        str | None,
        typer.Option(help="How phones send what they learnt: float32, float16 or int8. \\[default: float32]"),
    ] = None,
    plugin: Annotated[
        list[Path] | None, typer.Option(help="Python file that registers backbones; may be given again.")
    ] = None,
    allow_portable: Annotated[
        bool,
        typer.Option("--allow-portable", help="Accept operators that only slow kernels run, and list them."),
    ] = False,
    runtime: Annotated[
        str | None,
        typer.Option(help="executorch: what phones run; torch: its eager twin. \\[default: executorch]"),
    ] = None,
    engine: Annotated[
        str | None, typer.Option(help="inprocess, or ray for many machines. \\[default: inprocess]")
    ] = None,
    ray_address: Annotated[str | None, typer.Option(help="Ray cluster to join, with --engine ray.")] = None,
    seed: Annotated[
        int | None, typer.Option(help="Seed of weights, partition, augmentation and order. \\[default: 0]")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="New run folder. \\[default: runs/<time>]")] = None,
    resume: Annotated[
        Path | None, typer.Option(help="Go on with this run folder, to the very result it would have had.")
    ] = None,
) -> None:
    """Let emulated phones learn one encoder from unlabelled captures, without moving them.

    Without --photos and --sounds it uses captures that the package makes itself. Every phone runs the exported
    learning step; the run folder gets config.toml, metrics.jsonl, checkpoints/ and report.html.

    Examples:

        pocketfed simulate

        pocketfed simulate --photos album/ --sounds recordings/ --phones 20 --rounds 30

        pocketfed simulate --resume runs/20260101-120000
    """
    console = Terminal()
    with console.status("starting"):
        # Torch and Flower take seconds to import; --help must not wait for them.
        from pocketfed.core.errors import ConfigError
        from pocketfed.simulator import run_folder
        from pocketfed.simulator.config_file import build_config, overlay, read_toml
        from pocketfed.simulator.display import Display, summary_table
        from pocketfed.simulator.simulate import simulate as run_simulation

    flags = {
        "captures.photos": photos and str(photos.resolve()),
        "captures.sounds": sounds and str(sounds.resolve()),
        "fleet.phones": phones,
        "rounds": rounds,
        "fleet.alpha": alpha,
        "aggregator": aggregator,
        "learning.backbone": backbone,
        "learning.mode": mode,
        "learning.optimiser": optimiser,
        "exchange.update_format": update_format,
        "plugins": [str(path.resolve()) for path in plugin] if plugin else None,
        "allow_portable": allow_portable or None,
        "runtime": runtime,
        "engine": engine,
        "ray_address": ray_address,
        "seed": seed,
    }
    if resume and (config or out or any(value is not None for value in flags.values())):
        raise ConfigError(["--resume goes on with the run's own configuration; leave the other options out"])
    settings = (
        run_folder.read_config(run_folder.find(resume))
        if resume
        else build_config(overlay(read_toml(config) if config else {}, flags))
    )
    path = resume or out or run_folder.default_path()
    try:
        with Display(console) as display:
            display.expect(settings.rounds)
            folder = run_simulation(settings, path, display, resume=resume is not None)
    except KeyboardInterrupt:
        begun = (path / "config.toml").exists()
        hint = f"Go on with: pocketfed simulate --resume {path}" if begun else "Nothing was begun."
        console.print(f"\nStopped. {hint}", soft_wrap=True)
        sys.stdout.flush()
        # Flower's simulation engine leaves a thread that waits for phones, which an ordinary exit would wait for.
        os._exit(130)
    console.print(summary_table(run_folder.read_metrics(folder, settings.rounds)))
    console.print(f"Report: {folder.path / 'report.html'}", soft_wrap=True)

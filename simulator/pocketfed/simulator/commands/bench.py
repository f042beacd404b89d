"""`pocketfed bench`."""

import json
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from pocketfed.simulator.terminal import Terminal


def bench(
    backbone: Annotated[str | None, typer.Option(help="Network to measure. \\[default: compact]")] = None,
    bundle: Annotated[
        Path | None,
        typer.Option(
            help="Measure the network and weights of this bundle, this run folder (its newest), or a checkpoint in it."
        ),
    ] = None,
    plugin: Annotated[
        list[Path] | None, typer.Option(help="Python file that registers backbones; may be given again.")
    ] = None,
    modality: Annotated[
        list[str] | None, typer.Option(help="photo or sound; may be given again. \\[default: both]")
    ] = None,
    optimiser: Annotated[
        str | None, typer.Option(help="sgd, sgd-nesterov or adamw. \\[default: sgd]")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Only this number of threads. \\[default: one, and all]")
    ] = None,
    batch: Annotated[
        int | None, typer.Option(help="Captures per step; each gives two views. \\[default: 32]")
    ] = None,
    against: Annotated[
        str, typer.Option(help="Other engines, by comma: stock, onnxruntime, litert, mnn.", metavar="PEERS")
    ] = "",
    rounds: Annotated[int, typer.Option(min=2, help="Counted turns of each contestant in a process.")] = 15,
    processes: Annotated[
        int, typer.Option(min=1, help="Fresh processes per contest; the median is shown.")
    ] = 3,
    inference: Annotated[
        bool, typer.Option(help="Also measure programs with the weights inside, float32 and int8.")
    ] = True,
    allow_portable: Annotated[
        bool, typer.Option(help="Accept operators that only slow kernels run, and list them.")
    ] = False,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write all figures here.", dir_okay=False)
    ] = None,
    plot_file: Annotated[
        Path | None, typer.Option("--plot", help="Draw the ratios here (png, svg or pdf).", dir_okay=False)
    ] = None,
) -> None:
    """Measure a learning step on this machine: latency, memory and size, next to eager PyTorch and to peers.

    Every contest runs in fresh processes, the contestants in turn, so that the ratios can be trusted where the
    milliseconds cannot. Run it on a quiet machine.

    Examples:

        pocketfed bench

        pocketfed bench --backbone timm:mobilenetv3_small_050 --batch 16 --threads 1

        pocketfed bench --against stock,onnxruntime --json figures.json --plot figures.png
    """
    console = Terminal()
    with console.status("starting"):
        # Torch takes seconds to import; --help must not wait for it.
        from pocketfed.core.atomic import write_atomically
        from pocketfed.simulator.bench import machine, run, show
        from pocketfed.simulator.bench.choose import choose_peers, choose_subject
        from pocketfed.simulator.bench.plot import check_ending, plot
        from pocketfed.simulator.bench.show import BenchDisplay
        from pocketfed.simulator.outputs import make_room

    if json_file:
        make_room(json_file, "--json")
    if plot_file:
        check_ending(plot_file)
        make_room(plot_file, "--plot")
    subject = choose_subject(backbone, bundle, plugin or [], modality or [], optimiser, batch, allow_portable)
    peers = choose_peers(against)
    if machine.is_busy():
        console.print("Other programs are running here; wait until they are done, or read the ratios only.")
    with BenchDisplay(console) as display:
        figures = run.benchmark(
            subject, run.all_threads(threads), peers, inference, rounds, processes, display
        )
    title = f"{subject.task.backbone}, {subject.task.layout.size:,} weights"
    compared = [row for row in figures.rows if "peer" in row]
    console.print(title)
    measured = [row for row in figures.rows if "peer" not in row]
    console.print(show.times_table(measured), show.sizes_table(measured))
    if any("refused" not in row for row in compared):
        console.print(show.peers_table(compared))
    for line in [f"slow kernel: {line}" for line in figures.slow] + show.refusals(compared):
        console.print(line, soft_wrap=True)
    if json_file:
        content = {
            "command": shlex.join(["pocketfed", *sys.argv[1:]]),
            "subject": title,
            "machine": machine.describe(),
            "results": figures.rows,
        }
        write_atomically(json_file, (json.dumps(content, indent=2) + "\n").encode())
        console.print(f"Figures: {json_file}", soft_wrap=True)
    if plot_file:
        plot(figures.rows, title, plot_file)
        console.print(f"Plot: {plot_file}", soft_wrap=True)

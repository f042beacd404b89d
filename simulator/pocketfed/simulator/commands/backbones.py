"""`pocketfed backbones`."""

from pathlib import Path
from typing import Annotated

import typer

from pocketfed.simulator.terminal import Terminal


def backbones(
    names: Annotated[
        list[str] | None, typer.Argument(help="Only these, timm:NAME too, with what becomes of their layers.")
    ] = None,
    plugin: Annotated[
        list[Path] | None, typer.Option(help="Python file that registers backbones; may be given again.")
    ] = None,
    side: Annotated[
        int, typer.Option(min=16, max=1024, help="Of the photo whose products are counted.")
    ] = 32,
    measure: Annotated[
        Path | None,
        typer.Option(
            help="Measure those (else the phone sizes) that this file has no figures of, and keep them in it.",
            dir_okay=False,
            metavar="FILE.json",
        ),
    ] = None,
    batch: Annotated[int, typer.Option(min=4, max=256, help="Captures per measured step.")] = 32,
    rounds: Annotated[int, typer.Option(min=2, help="Counted turns of each contestant in a process.")] = 9,
    processes: Annotated[int, typer.Option(min=1, help="Fresh processes per contest.")] = 1,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the table as Markdown.")] = False,
) -> None:
    """List the backbones: parameters, features, and the products (multiply-adds) that embedding one photo costs.

    Named ones come with the rewrites that their learning step needs, and with how their constants were found if they
    have any. With --measure, the table says what they cost on
    this machine, on one thread: a step and an embedding of a batch of photos in milliseconds and as a multiple of eager
    PyTorch's time, one photo with the weights inside in float32 and int8, memory that the step plans, sizes of
    programs, and why one could not be made. Networks of timm (timm:NAME) are not in the list.

    Examples:

        pocketfed backbones

        pocketfed backbones timm:mobilenetv3_small_050 timm:resnet18+groupnorm

        pocketfed backbones --measure figures.json --markdown

        pocketfed backbones --plugin mine.py --side 96
    """
    console = Terminal()
    with console.status("starting"):
        from pocketfed.core.backbones import BACKBONES, PHONES
        from pocketfed.core.plugins import load_plugins
        from pocketfed.simulator import catalogue
        from pocketfed.simulator.bench import machine
        from pocketfed.simulator.bench.show import BenchDisplay
        from pocketfed.simulator.bench.survey import read_surveys, survey, write_surveys
        from pocketfed.simulator.outputs import make_room

    if measure is not None:
        make_room(measure, "--measure")
    load_plugins(plugin or [])
    chosen = names or list(PHONES if measure else BACKBONES)
    counted = {name: catalogue.counts(name, side) for name in chosen}
    if measure is None:
        table = catalogue.counts_table(counted, side)
    else:
        surveys = read_surveys(measure, batch)
        missing = [name for name in chosen if name not in surveys]
        if missing and machine.is_busy():
            console.print(
                "Other programs are running here; wait until they are done, or read the ratios only."
            )
        with BenchDisplay(console) as display:
            display.expect(len(missing))
            for name in missing:
                surveys[name] = survey(name, plugin or [], batch, rounds, processes, display)
                write_surveys(measure, surveys, batch)
        table = catalogue.survey_table(counted, surveys, side)
    console.print(table.markdown() if markdown else table.rich(), soft_wrap=markdown)
    for name in names or []:
        for line in (*catalogue.constants(name), *catalogue.rewrites(name)):
            console.print(f"{name}: {line}", soft_wrap=True)

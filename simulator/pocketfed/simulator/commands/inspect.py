"""`pocketfed inspect`."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from pocketfed.simulator.finite import finite
from pocketfed.simulator.terminal import Terminal


def inspect(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The bundle.")],
    max_mb: Annotated[
        float | None,
        typer.Option(
            "--max-mb", min=0, callback=finite, help="Largest size; above it the command ends with 1."
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="The manifest and what was found, as JSON.")
    ] = False,
) -> None:
    """Say what is in a bundle: programs, inputs, outputs, sizes, operators and what runs on slow kernels.

    Examples:

        pocketfed inspect bundle

        pocketfed inspect bundle --max-mb 8
    """
    console = Terminal()
    with console.status("reading"):
        from pocketfed.core.bundle import read_bundle
        from pocketfed.core.visible import visible
        from pocketfed.simulator.inspection import (
            classifiers,
            describe_bundle,
            headline,
            programs_table,
            signatures,
            slow_kernels,
        )

        bundle = read_bundle(folder)
        programs = describe_bundle(bundle)
    size = bundle.release.size / 1e6
    if as_json:
        found = {"id": bundle.id, "manifest": bundle.manifest, "programs": [p.to_json() for p in programs]}
        print(json.dumps(found, indent=2))
    else:
        title = f"{folder}: bundle {bundle.id[:12]}, version {bundle.version}, {size:.2f} MB"
        above = [title, *headline(bundle)]
        below = [*signatures(bundle, programs), *classifiers(bundle), *slow_kernels(programs)]
        table = programs_table(programs)
        for part in (*above, table, *below):
            line = visible(part) if isinstance(part, str) else part
            console.print(line, soft_wrap=line is not table)
    if max_mb is not None and size > max_mb:
        Terminal(stderr=True).print(
            f"The bundle has {size:.2f} MB, more than {max_mb:g}; leave out what the app does not need "
            "(pocketfed bundle --no-int8, --no-coreml), or choose a smaller backbone.",
            style="red",
            soft_wrap=True,
        )
        sys.exit(1)

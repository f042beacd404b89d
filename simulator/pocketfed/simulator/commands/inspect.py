"""`pocketfed inspect`."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console


def inspect(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The bundle.")],
    max_mb: Annotated[
        float | None, typer.Option("--max-mb", min=0, help="Largest size; above it the command ends with 1.")
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
    console = Console()
    with console.status("reading"):
        from pocketfed.core.bundle import read_bundle
        from pocketfed.simulator.inspection import (
            classifiers,
            describe_bundle,
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
        about = bundle.manifest
        title = f"{folder}: bundle {bundle.id[:12]}, version {bundle.version}, {size:.2f} MB"
        console.print(title, highlight=False, soft_wrap=True)
        if "backbone" in about:
            console.print(
                f"{about['backbone']}, {bundle.spec.weights:,} weights, {about['features']} features, "
                f"{about['optimiser']}, batches of {bundle.spec.batch}",
                highlight=False,
                soft_wrap=True,
            )
        console.print(programs_table(programs))
        for line in (*signatures(bundle, programs), *classifiers(bundle)):
            console.print(line, markup=False, highlight=False, soft_wrap=True)
        for line in slow_kernels(programs):
            console.print(line, soft_wrap=True)
    if max_mb is not None and size > max_mb:
        Console(stderr=True).print(
            f"The bundle has {size:.2f} MB, more than {max_mb:g}; leave out what the app does not need "
            "(pocketfed bundle --no-int8, --no-coreml), or choose a smaller backbone.",
            style="red", highlight=False, soft_wrap=True,
        )  # fmt: skip
        sys.exit(1)

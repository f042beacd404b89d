"""`pocketfed verify`."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from pocketfed.simulator.terminal import Terminal, telling


def verify(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The bundle.")],
    key: Annotated[
        Path | None, typer.Option(help="Public key that must have signed it. \\[default: any, or none]")
    ] = None,
    plugin: Annotated[
        list[Path] | None,
        typer.Option(help="Python file that the bundle was made with, as its hash says; may be given again."),
    ] = None,
    signature_only: Annotated[
        bool,
        typer.Option(
            "--signature-only", help="Check signature, hashes and files, and run nothing; needs --key."
        ),
    ] = False,
) -> None:
    """Check that a bundle is whole and signed, and that every program does what eager PyTorch does.

    Core ML packages are run operator by operator in PyTorch, once exactly and once rounded as they declare; that is
    no proof of what Apple's compiler makes of them. Ends with 0 if all is well, with 1 if a program disagrees.

    Examples:

        pocketfed verify bundle --key release.pub

        pocketfed verify bundle --signature-only --key release.pub
    """
    if signature_only and key is None:
        from pocketfed.core.errors import ConfigError

        what = "--signature-only without a key checks no signature; add --key FILE, the public key that must have signed"
        raise ConfigError([f"{what} {folder}"])
    console = Terminal()
    with console.status("starting") as status:
        from rich.table import Table
        from rich.text import Text

        from pocketfed.core.bundle import read_bundle
        from pocketfed.core.signing import read_verifying_key

        trusted = None if key is None else read_verifying_key(key)
        bundle = read_bundle(folder, trusted)
        signed = f"signed by {trusted.fingerprint}" if trusted else "signature not checked (give --key)"
        console.print(
            f"{folder}: bundle {bundle.id[:12]}, version {bundle.version}, {len(bundle.release.files)} files, {signed}",
            soft_wrap=True,
        )
        if signature_only:
            return
        from pocketfed.core.plugins import load_plugins
        from pocketfed.simulator.parity import MOST_LOST
        from pocketfed.simulator.verification import verify_programs

        load_plugins(plugin or [])
        say = telling(status)
        rows = list(verify_programs(bundle, lambda name: say(f"running {name}")))
    table = Table("what", "precision", "error, at most", "lost", "")
    former = ""
    for row in rows:
        if row.program != former:
            table.add_section()
            table.add_row(Text(row.program, "bold"))
        former = row.program
        table.add_row(
            f"  {row.what}", row.precision, f"{row.error:.1e}, {row.bound:.0e}",
            f"{row.lost:.1%}" if row.lost else "", "ok" if row.agrees else Text("disagrees", "red"),
        )  # fmt: skip
        if row.place and not row.agrees:
            table.add_row(f"    most the {row.place}")
    console.print(table)
    console.print(
        "Errors are shares of the largest magnitude of eager PyTorch's result; in steps each slice is judged by itself, or by a "
        "tenth of the largest slice if that is more. Lost is the share "
        f"of what tells captures apart: at most {MOST_LOST:.0%}; a program that ignores its captures loses 100 %."
    )
    if not all(row.agrees for row in rows):
        sys.exit(1)

"""`pocketfed keys`."""

from pathlib import Path
from typing import Annotated

import typer

from pocketfed.simulator.terminal import Terminal


def keys(
    prefix: Annotated[
        Path, typer.Argument(metavar="PREFIX", help="File of the private key; the public one is PREFIX.pub.")
    ],
) -> None:
    """Make a key that signs bundles.

    PREFIX can be read by its owner alone and stays where bundles are made. PREFIX.pub goes to servers and into apps,
    which refuse a bundle that the key did not sign.

    Examples:

        pocketfed keys release
    """
    from pocketfed.core.signing import make_signing_key, public_path

    key = make_signing_key(prefix)
    console = Terminal()
    for path, what in (
        (prefix, "signs bundles; keep it to yourself"),
        (public_path(prefix), "goes into apps"),
    ):
        console.print(f"{path}  {what}", soft_wrap=True)
    console.print(f"Fingerprint: {key.public.fingerprint}")
    console.print(f"Next: pocketfed bundle --key {prefix} -o bundle", soft_wrap=True)

"""`pocketfed certs`."""

from pathlib import Path
from typing import Annotated

import typer

from pocketfed.simulator.terminal import Terminal


def certs(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="Where to put them; made if it is not there.")
    ],
    host: Annotated[
        list[str] | None,
        typer.Option(help="Name or address by which phones reach the server; may be given again."),
    ] = None,
    renew: Annotated[
        bool, typer.Option("--renew", help="New server certificate, same authority: phones need nothing new.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace everything that is there.")] = False,
) -> None:
    """Make a certificate authority for development and a server certificate, in the folder DIR.

    The certificate is also good for localhost, 127.0.0.1 and ::1, and lasts 397 days; the authority lasts 5 years.

    Examples:

        pocketfed certs certs/ --host 192.168.1.20

        pocketfed certs certs/ --renew
    """
    from pocketfed.core.errors import ConfigError
    from pocketfed.server.certificates import make_certificates, renew_certificate

    if renew and force:
        raise ConfigError(["--renew keeps the authority and --force replaces it; give one of them"])
    hosts = host or []
    files = renew_certificate(folder, hosts) if renew else make_certificates(folder, hosts, force=force)
    console = Terminal()
    for path, what in (
        (files.ca, "authority: install it on phones, and only this file" + (" (unchanged)" if renew else "")),
        (files.ca_key, "its key: signs certificates that those phones believe; keep it off the server"),
        (files.server, "the server's certificate"),
        (files.server_key, "its key"),
    ):
        console.print(f"{path}  {what}", soft_wrap=True)
    start = f"pocketfed serve --bundle BUNDLE --cert {files.server} --key {files.server_key}"
    console.print(
        f"Next: restart the server, which reads its certificate when it starts: {start}"
        if renew
        else f"Next: {start}",
        soft_wrap=True,
    )

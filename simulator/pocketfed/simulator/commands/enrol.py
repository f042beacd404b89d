"""`pocketfed enrol`."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Column, Table

from pocketfed.simulator.terminal import Terminal


def enrol(
    keys: Annotated[
        list[Path] | None,
        typer.Argument(help="Public keys of phones, PEM or OpenSSH; a phone's is key.pub in its home."),
    ] = None,
    state: Annotated[Path, typer.Option(help="State folder of the server, which may be running.")] = Path(
        "server"
    ),
    name: Annotated[
        str, typer.Option(help="To tell the phone by; with one key. \\[default: the file's folder]")
    ] = "",
    new: Annotated[
        list[Path] | None,
        typer.Option(
            help="Home folder of a phone on this machine; its key is made if it has none, and enrolled."
        ),
    ] = None,
    edge: Annotated[
        bool,
        typer.Option("--edge", help="They are edge servers, whose folds of their phones' updates count."),
    ] = False,
    revoke: Annotated[
        list[str] | None,
        typer.Option(help="Fingerprint of a key, as the list shows it, that may not come again."),
    ] = None,
) -> None:
    """Let phones take part, by their public keys; without keys, list those that may.

    KEYS are files with a public key each, PEM or OpenSSH; that of a phone is key.pub in its home folder. All of them are
    read before the first is enrolled, and the command may be repeated: who is enrolled already stays so.

    Examples:

        pocketfed enrol --state server key.pub

        pocketfed enrol --state server --new phones/1 --new phones/2

        pocketfed enrol --state server --edge --new north/upstream

        pocketfed enrol --state server

        pocketfed enrol --state server --revoke SHA256:47DEQpj8HBSa
    """
    console = Terminal()
    with console.status("starting"):
        # Flower takes seconds to import; --help must not wait for it.
        from pocketfed.mobile_client.flower.home import open_home
        from pocketfed.mobile_client.flower.key import load_or_create_key
        from pocketfed.server.enrolment import KeyFile, enrolled, is_state, register, revoke_key

    keys = list(keys or [])
    for folder in new or []:
        with open_home(folder) as home:
            load_or_create_key(home.key)
            keys.append(home.key.with_suffix(".pub"))
    if keys:
        named = [name if len(keys) == 1 and name else key.resolve().parent.name for key in keys]
        makes_state = not is_state(state)
        files = [KeyFile(key, chosen) for key, chosen in zip(keys, named, strict=True)]
        found = register(state, files, edge)
        if makes_state:
            console.print(
                f"Made the state folder {state}; the server needs the same --state.",
                soft_wrap=True,
            )
        for phone, is_new in found:
            done = "Enrolled" if is_new else "Enrolled already:"
            console.print(f"{done} {phone.name}: {phone.fingerprint}", soft_wrap=True)
    for fingerprint in revoke or []:
        phone = revoke_key(state, fingerprint)
        console.print(f"Revoked {phone.name}: {phone.fingerprint}", soft_wrap=True)
    if keys or revoke:
        return
    table = Table(
        "name",
        Column("fingerprint", no_wrap=True),
        Column("kind", no_wrap=True),
        Column("state", no_wrap=True),
        box=None,
    )
    for phone in enrolled(state):
        table.add_row(phone.name, phone.fingerprint, "edge" if phone.edge else "phone", phone.status)
    console.print(table)

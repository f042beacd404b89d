"""`pocketfed phone`."""

import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pocketfed.simulator.finite import finite
from pocketfed.simulator.terminal import Terminal, telling

if TYPE_CHECKING:
    from pocketfed.core.bundle import Bundle

HOME = Path("~/.pocketfed/phone")


def phone(
    server: Annotated[str, typer.Option(help="Address of the server: https://host:port.")],
    captures: Annotated[
        Path, typer.Option(help="Folder of photos and sounds, which may be empty and change at any time.")
    ],
    trust_key: Annotated[
        Path | None,
        typer.Option(
            "--trust", help="Install the server's bundle if this public key signed it, and newer ones later."
        ),
    ] = None,
    bundle: Annotated[
        Path | None,
        typer.Option(
            help="Work with this bundle as it is, or the run folder or configuration that the server has."
        ),
    ] = None,
    home: Annotated[
        Path, typer.Option(help="Where this phone keeps its key, its journal and its log.")
    ] = HOME,
    ca: Annotated[
        Path | None, typer.Option(help="Certificate authority of the server. \\[default: the system's]")
    ] = None,
    look_every: Annotated[
        float,
        typer.Option(
            min=1, max=86_400, callback=finite, help="With --trust: seconds between looks for a newer bundle."
        ),
    ] = 600.0,
    policy: Annotated[
        Path | None, typer.Option(help="TOML file that says when this phone may train. \\[default: always]")
    ] = None,
    quota_mb: Annotated[
        int,
        typer.Option("--quota-mb", min=1, help="Megabytes of decoded captures to keep; the newest that fit."),
    ] = 2000,
    inbox: Annotated[
        bool,
        typer.Option(
            "--inbox", help="The captures are this phone's own: delete the oldest beyond the quota."
        ),
    ] = False,
    number: Annotated[
        int | None,
        typer.Option(min=0, help="Of this phone's random numbers. \\[default: derived from its key]"),
    ] = None,
    heartbeat: Annotated[
        float,
        typer.Option(
            min=10,
            max=1800,
            callback=finite,
            help="Seconds between heartbeats; offline after two without one.",
        ),
    ] = 60.0,
    rounds: Annotated[
        int | None, typer.Option(min=1, help="Stop after so many answered instructions. \\[default: never]")
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Threads that a step runs on. \\[default: one or all cores, as the first start finds faster]",
        ),
    ] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Allow http:// to a server that is not this machine.")
    ] = False,
) -> None:
    """Be one phone of a federation: learn from its own captures whenever the server asks.

    A message that it has received survives a crash: start it again with the same --home and it goes on.

    Examples:

        pocketfed phone --server https://192.0.2.1:8443 --ca ca.pem --trust release.pub --captures captures/

        pocketfed phone --server http://127.0.0.1:8000 --bundle bundle/ --captures captures/ --rounds 1
    """
    # From here on, since starting takes seconds. An exception is a clean end: what is at work is in the journal.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    console = Terminal()
    try:
        with console.status("starting"):
            # Torch and its like take seconds to import; --help must not wait for them.
            from pocketfed.core.errors import CaptureError, ConfigError
            from pocketfed.core.signing import read_verifying_key
            from pocketfed.mobile_client.blank_step import try_steps
            from pocketfed.mobile_client.bundle_store import BundleStore
            from pocketfed.mobile_client.connection import trust
            from pocketfed.mobile_client.delivery import Depot
            from pocketfed.mobile_client.flower.home import open_home
            from pocketfed.mobile_client.flower.key import load_or_create_key
            from pocketfed.mobile_client.flower.participation import Participation, Terms
            from pocketfed.mobile_client.gate import Gate
            from pocketfed.mobile_client.renewal import Renewal
            from pocketfed.mobile_client.runtime import ExecutorchRuntime
            from pocketfed.mobile_client.threads import remembered_threads
            from pocketfed.simulator.bundles import open_bundle
            from pocketfed.simulator.phone_log import show_log

            if (bundle is None) == (trust_key is None):
                ways = (
                    "--trust with the public key that signs the server's bundles, or --bundle with a bundle"
                )
                raise ConfigError([f"give {ways}, not both"])
            trusted = None if trust_key is None else read_verifying_key(trust_key)
            plain = check_address(server, insecure)
            verify = None if plain else trust(ca)
            gate = Gate(policy)
            if not os.path.isdir(captures):  # later it may go and come, but now it is most likely a mistake
                raise CaptureError(
                    f"{captures} is no folder; make it (it may be empty), or give another one: --captures"
                )

        with open_home(home.expanduser()) as place, show_log(console, place.log) as log:
            if plain:
                log.warning("%s is not encrypted: anyone on the way can read and change what is sent", server)
            key = load_or_create_key(place.key)
            name, quota = key.number if number is None else number, quota_mb * 1_000_000
            terms = Terms(server, verify, captures, name, quota, inbox, heartbeat, rounds, app_version())

            def threads_for(parts: "Bundle") -> int:
                if threads is not None:
                    return threads
                with console.status("trying on how many threads a step is fastest"):
                    return remembered_threads(place.threads, parts.program_file, parts.id, parts.spec)

            part = Participation(terms, place, key, gate, threads_for)
            if bundle is not None:
                with console.status("opening the bundle") as status:
                    parts = open_bundle(bundle, place.folder / "bundle", telling(status))
                part.work_with(parts)
                return
            assert trusted is not None  # as one of the two is given
            with Depot(server, verify) as depot:
                store = BundleStore(place.bundles, trusted)

                def check(found: "Bundle") -> None:
                    try_steps(ExecutorchRuntime(found.program, None), found.spec)

                part.work_with_newest(Renewal(store, depot, check, look_every, gate.refusal))
    except (KeyboardInterrupt, SystemExit) as end:
        console.print("Stopped. Start again with the same --home to go on.", soft_wrap=True)
        sys.exit(130 if isinstance(end, KeyboardInterrupt) else end.code)


def check_address(server: str, insecure: bool, flag: str = "--insecure") -> bool:
    """Whether the server is spoken to without encryption.

    Raises:
        ServerError: it is no address, or not encrypted although it is another machine.
    """
    from ipaddress import ip_address
    from urllib.parse import urlsplit

    from pocketfed.core.errors import ServerError

    try:
        parts = urlsplit(server)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host = None
    if not host or parts.scheme not in ("http", "https") or parts.path.strip("/") or parts.query:
        raise ServerError(f"{server} is no address of a server; write https://host:port")
    if parts.scheme == "https":
        return False
    try:
        here = host == "localhost" or ip_address(host).is_loopback
    except ValueError:  # a name
        here = False
    if not here and not insecure:
        raise ServerError(
            f"{server} is not encrypted, and not this machine; use https://, or accept it with {flag}"
        )
    return True


def app_version() -> str:
    """The version of this package."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("pocketfed")
    except PackageNotFoundError:  # a checkout that is not installed
        return ""

"""`pocketfed serve`."""

import secrets
import signal
import sys
import threading
from pathlib import Path
from typing import Annotated, Literal

import typer

from pocketfed.simulator.terminal import Terminal, telling


def serve(
    bundle: Annotated[
        Path,
        typer.Option(
            help="What phones learn: a bundle, the folder of a simulation or a checkpoint in it, or a configuration."
        ),
    ],
    state: Annotated[
        Path, typer.Option(help="Folder that a restart goes on from: checkpoints, keys, metrics.")
    ] = Path("server"),
    config: Annotated[
        Path | None,
        typer.Option(help="TOML file in place of the bundle's own; see \\[deployment] in docs/serve.md."),
    ] = None,
    plugin: Annotated[
        list[Path] | None,
        typer.Option(help="Python file that the bundle was made with, as its hash says; may be given again."),
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen at; 0.0.0.0 for every network.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes one that is free.")] = 8443,
    cert: Annotated[Path | None, typer.Option(help="The server's certificate, PEM.")] = None,
    key: Annotated[Path | None, typer.Option(help="The certificate's private key, PEM.")] = None,
    insecure: Annotated[
        bool,
        typer.Option("--insecure", help="Plain HTTP. Whoever is on the way can read and change weights."),
    ] = False,
    open_to_all: Annotated[
        bool, typer.Option("--open", help="Let any phone take part, not only those that were enrolled.")
    ] = False,
    rounds: Annotated[
        int | None, typer.Option(min=1, help="Rounds of the whole run. \\[default: the configuration's]")
    ] = None,
    upstream: Annotated[
        str | None,
        typer.Option(help="Be an edge of this server: run its rounds with own phones. https://host:port."),
    ] = None,
    upstream_ca: Annotated[
        Path | None, typer.Option(help="Certificate authority of the server above. \\[default: the system's]")
    ] = None,
    upstream_home: Annotated[
        Path | None,
        typer.Option(help="Folder of the key that it knows this edge by. \\[default: upstream in --state]"),
    ] = None,
    upstream_insecure: Annotated[
        bool,
        typer.Option("--upstream-insecure", help="Allow http:// to a server above that is elsewhere."),
    ] = False,
    log_format: Annotated[
        Literal["text", "json"], typer.Option(help="Lines for people, or JSON for machines.")
    ] = "text",
) -> None:
    """Let real phones learn one encoder: Flower's Fleet API over HTTPS, rounds, and a live page.

    The state folder holds all that a restart needs: stop the server, or kill it, and the same command goes on.

    Examples:

        pocketfed certs certs/

        pocketfed serve --bundle runs/first --cert certs/server.pem --key certs/server-key.pem

        pocketfed serve --bundle configs/demo.toml --insecure --open

        pocketfed serve --upstream https://192.0.2.1:8443 --upstream-ca ca.pem --bundle bundle/ --state north
    """
    from pocketfed.server.process_memory import leave_out_what_is_there, share_arenas

    share_arenas()
    console = Terminal(stderr=True)
    with console.status("starting"):
        # Torch and Flower take seconds to import; --help must not wait for them.
        from pocketfed.core.errors import ConfigError
        from pocketfed.core.plugins import load_plugins
        from pocketfed.server.connections import allow_many_connections
        from pocketfed.server.logs import LogFormat, structured_logs
        from pocketfed.server.serving import Tls
        from pocketfed.server.watch.expiry import Expiry
        from pocketfed.server.watch.metrics import Metrics
        from pocketfed.server.watch.round_log import RoundLog
        from pocketfed.server.watch.scoreboard import Scoreboard
        from pocketfed.server.watch.token import needs_token
        from pocketfed.server.watch.watcher import Everyone
        from pocketfed.simulator.commands.phone import check_address
        from pocketfed.simulator.config_file import build_config, read_toml
        from pocketfed.simulator.deployment import Place
        from pocketfed.simulator.deployment import serve as run_server
        from pocketfed.simulator.edge import HOME, Upstream, serve_edge
        from pocketfed.simulator.private import spent_up
        from pocketfed.simulator.server_run import exclusive_state, open_run

        if insecure == (cert is not None or key is not None):
            raise ConfigError(
                [
                    "give --cert and --key (pocketfed certs makes them for development), or --insecure, not both"
                ]
            )
        if (cert is None) != (key is None):
            raise ConfigError(["--cert and --key belong together"])
        if upstream is None and (upstream_ca or upstream_home or upstream_insecure):
            raise ConfigError(["--upstream-ca, --upstream-home and --upstream-insecure go with --upstream"])
        if upstream is not None:
            if rounds is not None:
                raise ConfigError(["--rounds: an edge server's rounds come from --upstream; leave it out"])
            check_address(upstream, upstream_insecure, "--upstream-insecure")
        tls = Tls(cert, key) if cert and key else None
        until = tls.check() if tls else None
        load_plugins(plugin or [])
        settings = build_config(read_toml(config)) if config else None
    with exclusive_state(state):
        with console.status("opening the bundle") as status:
            run = open_run(state, bundle, settings, rounds, telling(status))
        if insecure:
            beyond = " beyond this machine: whoever is on the way can read and change weights"
            console.print(
                f"Warning: --insecure{beyond if needs_token(host) else ': nothing is encrypted'}.",
                style="yellow",
                soft_wrap=True,
            )
        token = _page_token(state / "page-token") if needs_token(host) else None
        place = Place(host, port, tls, not open_to_all, token)
        stop = threading.Event()
        for name in (signal.SIGTERM, signal.SIGINT):
            signal.signal(name, lambda number, frame: stop.set())
        planned = None if upstream else run.config.rounds
        # Where rounds do not wait, each phone has a deadline of its own.
        deadline = None if run.config.asynchronous.enabled else run.config.deployment.deadline
        scoreboard, metrics = Scoreboard(planned, deadline, until), Metrics(until)

        def ready(url: str) -> None:
            page = f"{url}/?token={token}" if token else f"{url}/"
            console.print(f"Serving phones at {url}\nPage: {page}", soft_wrap=True)
            signed = "signed" if run.bundle.signature else "not signed, so phones cannot install it from here"
            console.print(
                f"Bundle: {url}/bundle (version {run.bundle.version}, {signed})",
                soft_wrap=True,
            )
            if not open_to_all:
                console.print(
                    f"Enrol phones with: pocketfed enrol --state {state} KEY.pub",
                    soft_wrap=True,
                )

        allow_many_connections()
        leave_out_what_is_there()  # imports, which stay
        with structured_logs(LogFormat(log_format), state):
            watcher = Everyone(RoundLog(), metrics, scoreboard, *([Expiry(until)] if until else []))
            if upstream is not None:
                above = Upstream(upstream, upstream_home or state / HOME, upstream_ca)
                serve_edge(run, place, above, watcher, metrics, scoreboard, ready, stop.is_set)
                console.print("Stopped. The same command goes on.", soft_wrap=True)
                return
            run_server(run, place, watcher, metrics, scoreboard, ready, stop.is_set)
        spent = None if stop.is_set() else spent_up(run.config, run.folder.path)
        done = "Stopped" if stop.is_set() else spent or f"All {run.config.rounds} rounds are finished"
        console.print(f"{done}. Checkpoints: {run.folder.checkpoints}", soft_wrap=True)
        sys.stdout.flush()


def _page_token(path: Path) -> str:
    """The token of this state folder, the same after a restart."""
    from pocketfed.core.atomic import write_atomically

    if not path.is_file():
        write_atomically(path, secrets.token_urlsafe(24).encode(), mode=0o600)
    return path.read_text().strip()

"""The command line."""

import os
import sys
from importlib import metadata
from typing import Annotated

# Flower and Ray report usage and look for updates unless told not to; phones' data is nobody else's business.
for name, value in (
    ("FLWR_TELEMETRY_ENABLED", "0"),
    ("FLWR_DISABLE_UPDATE_CHECK", "1"),
    ("RAY_USAGE_STATS_ENABLED", "0"),
):
    os.environ.setdefault(name, value)

import typer

from pocketfed.core.errors import ConfigError, UserError
from pocketfed.simulator.commands.backbones import backbones
from pocketfed.simulator.commands.bench import bench
from pocketfed.simulator.commands.bundle import bundle
from pocketfed.simulator.commands.certs import certs
from pocketfed.simulator.commands.enrol import enrol
from pocketfed.simulator.commands.inspect import inspect
from pocketfed.simulator.commands.keys import keys
from pocketfed.simulator.commands.phone import phone
from pocketfed.simulator.commands.probe import probe
from pocketfed.simulator.commands.scales import scales
from pocketfed.simulator.commands.serve import serve
from pocketfed.simulator.commands.simulate import simulate
from pocketfed.simulator.commands.verify import verify
from pocketfed.simulator.terminal import Terminal

app = typer.Typer(
    name="pocketfed",
    help="On-device, federated, self-supervised learning from sound and photos on phones.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _say_version(wanted: bool) -> None:
    if wanted:
        print(f"pocketfed {metadata.version('pocketfed')}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_say_version, is_eager=True, help="Show the version and exit."),
    ] = False,
) -> None:
    """On-device, federated, self-supervised learning from sound and photos on phones."""


app.command(rich_help_panel="Develop")(simulate)
app.command(rich_help_panel="Develop")(bench)
app.command(rich_help_panel="Develop")(backbones)
app.command(rich_help_panel="Develop")(scales)
app.command(rich_help_panel="Bundle")(probe)
app.command(rich_help_panel="Bundle")(bundle)
app.command(rich_help_panel="Bundle")(inspect)
app.command(rich_help_panel="Bundle")(verify)
app.command(rich_help_panel="Bundle")(keys)
app.command(rich_help_panel="Deploy")(serve)
app.command(rich_help_panel="Deploy")(certs)
app.command(rich_help_panel="Deploy")(enrol)
app.command(rich_help_panel="Deploy")(phone)


def main() -> None:
    """Entry point: mistakes of the user end with one clear message and exit code 2, without a traceback."""
    try:
        app()
    except UserError as error:
        mistakes = error.problems if isinstance(error, ConfigError) else ()
        listed = "".join(f"\n  - {mistake}" for mistake in mistakes)
        said = f"Error: {len(mistakes)} mistakes:{listed}" if len(mistakes) > 1 else f"Error: {error}"
        Terminal(stderr=True).print(said, style="red", soft_wrap=True)
        sys.exit(error.exit_code)

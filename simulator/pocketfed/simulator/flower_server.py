"""The server as a stock Flower `ServerApp`: what `pocketfed serve` does, with a SuperLink of Flower's in between.

configs/flower-app names it; docs/flower-app.md has the commands.
"""

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from pocketfed.core.errors import ConfigError
from pocketfed.server.app import build_server_app
from pocketfed.server.logs import structured_logs
from pocketfed.server.roster import Roster
from pocketfed.server.stock_grid import StockGrid
from pocketfed.server.watch.round_log import RoundLog
from pocketfed.simulator.config import Config
from pocketfed.simulator.config_file import build_config, read_toml
from pocketfed.simulator.deployment import requirements_of
from pocketfed.simulator.flower_settings import Settings
from pocketfed.simulator.keeper import Keeper
from pocketfed.simulator.private import protect
from pocketfed.simulator.server_run import exclusive_state, open_run

WHERE = 'flwr run -c \'bundle="/…" state="/…"\''

server_app = ServerApp()


@server_app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the rounds that are left."""
    settings = Settings(context.run_config, WHERE)
    bundle, state = settings.path("bundle"), settings.path("state")
    config = settings.optional_path("config")
    rounds = settings.number("rounds") if settings.has("rounds") else 0
    settings.check()
    with exclusive_state(state), structured_logs(folder=state) as log, StockGrid(grid) as stock:
        chosen = build_config(read_toml(config)) if config else None
        run = open_run(state, bundle, chosen, rounds or None, log.info, _refuse_late)
        watcher = RoundLog()
        for problem in run.problems:
            watcher.trouble(f"a checkpoint is damaged, the one before is used: {problem}")
        roster = Roster(requirements_of(run.config, run.bundle), statuses=dict(run.last.statuses))
        private, numbers, listener = protect(
            run.config,
            run.folder.path,
            run.rounds(),
            range(run.last.round + 1, run.config.rounds + 1),
            Keeper(run, roster, watcher),
            log.warning,
        )
        server = build_server_app(private, run.last.model, numbers, roster, listener)
        server(stock, context)


def _refuse_late(config: Config) -> None:
    if config.deployment.late == "count":
        raise ConfigError(['deployment.late: a stock run can only "refuse"; pocketfed serve can "count"'])

"""An edge server in a thread: `pocketfed serve --upstream` without its command."""

from pathlib import Path

from pocketfed.mobile_client.flower.agent import Pace
from pocketfed.server.watch.metrics import Metrics
from pocketfed.server.watch.scoreboard import Scoreboard
from pocketfed.server.watch.watcher import Everyone
from pocketfed.simulator.config import Config
from pocketfed.simulator.edge import HOME, Upstream, serve_edge
from tests.simulator.deployed import Server


class Edge(Server):
    """An edge of the server at `above`."""

    def __init__(
        self, state: Path, bundle: Path, above: str, config: Config | None = None, port: int = 0
    ) -> None:
        super().__init__(state, bundle, config, port=port)
        self.upstream = Upstream(above, state / HOME)
        self.scoreboard = Scoreboard(None, self.run.config.deployment.deadline)

    def _serve(self) -> None:
        metrics = Metrics()
        watcher = Everyone(metrics, self.scoreboard, self.diary)
        try:
            serve_edge(
                self.run, self.place, self.upstream, watcher, metrics, self.scoreboard, self._go,
                self.stop.is_set, Pace(0.02, 0.2),
            )  # fmt: skip
        except Exception as error:  # noqa: BLE001 - for the thread that waits
            self.fault = error
            self._ready.set()

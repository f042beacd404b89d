"""A deployed server from bundle to last round: the composition root of `pocketfed serve`."""

import logging
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from flwr.app import Context, RecordDict
from numpy.typing import NDArray

from pocketfed.core.bundle import Bundle
from pocketfed.core.errors import RunFolderError
from pocketfed.server.app import build_server_app
from pocketfed.server.enrolment import DATABASE
from pocketfed.server.fleet_grid import FleetGrid
from pocketfed.server.flower_private import DatabaseError, Fleet, GivenUp
from pocketfed.server.roster import Requirements, Roster
from pocketfed.server.serving import Serving, Tls
from pocketfed.server.watch.metrics import Metrics
from pocketfed.server.watch.scoreboard import Scoreboard
from pocketfed.server.watch.watcher import ServerWatcher
from pocketfed.simulator.config import Config
from pocketfed.simulator.door import application, largest_answer
from pocketfed.simulator.keeper import Keeper
from pocketfed.simulator.private import protect
from pocketfed.simulator.server_run import Run
from pocketfed.simulator.tree import check_tree

AGAIN = 5.0
"""Seconds after which a database that could not be written is tried again."""

log = logging.getLogger(__name__)


def requirements_of(config: Config, bundle: Bundle) -> Requirements:
    """Which phones a deployed server asks."""
    wanted = config.deployment
    return Requirements(
        modalities=wanted.modalities,
        free_memory=wanted.free_memory_mb * 1_000_000,
        charging=wanted.charging,
        app_version=wanted.app_version,
        layout=bundle.spec.layout,
    )


def may_be_edge(fleet: Fleet, config: Config) -> Callable[[int], bool]:
    """Which of a deployed server's nodes may send folds."""
    return fleet.is_edge if config.deployment.edges == "enrolled" else lambda node: True


@dataclass(frozen=True)
class Place:
    """Where a server listens, and to whom.

    Attributes:
        host: address.
        port: 0 takes one that is free.
        tls: None serves plain HTTP, where anybody on the way can read and change weights.
        enrolled_only: whether phones need a key that was registered before.
        page_token: opens the page and the metrics; None leaves them open.
    """

    host: str
    port: int
    tls: Tls | None
    enrolled_only: bool = True
    page_token: str | None = None


def serve(
    run: Run,
    place: Place,
    watcher: ServerWatcher,
    metrics: Metrics,
    scoreboard: Scoreboard,
    ready: Callable[[str], None],
    stopping: Callable[[], bool],
) -> NDArray[np.float32]:
    """Serve phones until the last round is finished, or the server is to stop.

    Args:
        run: what to go on from.
        place: where to listen.
        watcher: is told of everything.
        metrics, scoreboard: what the page and `/metrics` show; part of `watcher`.
        ready: called with the address when phones can come.
        stopping: asked all the time.

    Returns:
        The weights after the last finished round, float32 [p].

    Raises:
        ConfigError: the rule is no sum, and there are edge servers.
        ServerError: the address cannot be listened at.
        NoPhonesError: too few phones came, or too few of them answered.
        RunFolderError: it is over, and its last round could not be written.
    """
    config, bundle = run.config, run.bundle
    for problem in run.problems:
        watcher.trouble(f"a checkpoint is damaged, the one before is used: {problem}")
    rounds = run.rounds()
    largest = largest_answer(rounds.aggregator, rounds.layout)
    fleet = Fleet(run.folder.path / DATABASE, largest)
    if config.deployment.edges == "any" or any(node.edge for node in fleet.nodes()):
        check_tree(config, rounds)
    allowed = may_be_edge(fleet, config)
    known = {node: s for node, s in run.last.statuses.items() if not s.edge or allowed(node)}
    roster = Roster(requirements_of(config, bundle), statuses=known, may_be_edge=allowed)
    keeper = Keeper(run, roster, watcher)
    scoreboard.restore(keeper.records())
    metrics.restore(keeper.records())
    app = application(fleet, largest, place.enrolled_only, place.page_token, metrics, scoreboard, bundle)

    def run_rounds() -> None:
        left = range(keeper.round + 1, config.rounds + 1)
        private, numbers, listener = protect(config, run.folder.path, rounds, left, keeper, log.warning)
        server = build_server_app(private, keeper.model, numbers, roster, listener, stopping=stopping)
        grid = FleetGrid(fleet, keep_late=config.deployment.late == "count", stopping=stopping)
        run_id = grid.run.run_id
        server(grid, Context(run_id=run_id, node_id=1, node_config={}, state=RecordDict(), run_config={}))

    with Serving(app, place.host, place.port, place.tls) as serving:
        ready(serving.url)
        try:
            while not _is_done(run_rounds, watcher, run.folder.path):
                until = time.monotonic() + AGAIN
                while time.monotonic() < until and not stopping():
                    time.sleep(0.1)
        finally:
            with suppress(DatabaseError):
                fleet.end_run()
    if keeper.problem is not None:
        raise RunFolderError(f"{keeper.problem}, and start again to repeat it")
    return keeper.model.weights


def _is_done(run_rounds: Callable[[], None], watcher: ServerWatcher, folder: Path) -> bool:
    """Whether rounds came to their end; otherwise the round that is running has to be begun anew."""
    try:
        run_rounds()
    except DatabaseError as error:
        watcher.trouble(f"the round is begun anew: {folder / DATABASE}: {error.orig}; make room in {folder}")
        return False
    except GivenUp as error:
        watcher.trouble(f"the round is begun anew: {error}")
        return False
    return True

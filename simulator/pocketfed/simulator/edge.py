"""An edge server: one node to its parent, a server to phones of its own; `pocketfed serve --upstream`."""

import contextlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pocketfed.core.errors import HomeError, PocketfedError, ServerError
from pocketfed.core.wire import ENVELOPE
from pocketfed.mobile_client.connection import Retry, trust
from pocketfed.mobile_client.flower.agent import Agent, Pace
from pocketfed.mobile_client.flower.calls import Caller
from pocketfed.mobile_client.flower.fleet import Fleet as Above
from pocketfed.mobile_client.flower.home import open_home
from pocketfed.mobile_client.flower.journal import Journal
from pocketfed.mobile_client.flower.key import load_or_create_key
from pocketfed.mobile_client.flower.membership import Membership
from pocketfed.server.enrolment import DATABASE
from pocketfed.server.fleet_grid import FleetGrid
from pocketfed.server.flower_private import DatabaseError, Fleet, GivenUp
from pocketfed.server.outcome import Outcome
from pocketfed.server.roster import Roster
from pocketfed.server.serving import Serving
from pocketfed.server.session import LOOK
from pocketfed.server.watch.metrics import Metrics
from pocketfed.server.watch.scoreboard import Scoreboard
from pocketfed.server.watch.watcher import Everyone, ServerWatcher
from pocketfed.simulator.deployment import AGAIN, Place, may_be_edge, requirements_of
from pocketfed.simulator.door import application, largest_answer
from pocketfed.simulator.edge_work import EdgeWork, Stopped
from pocketfed.simulator.metrics_file import MetricsFile
from pocketfed.simulator.run_folder import Record, record_of
from pocketfed.simulator.server_run import Run
from pocketfed.simulator.tree import check_tree

HOME = "upstream"
"""In the state folder: the edge as its parent's node, with the files of a phone's home."""

PACE = Pace(first=0.2, most=2.0)
"""An edge asks its parent for work more often than a phone, which has a battery: its own phones wait for it."""

HEARTBEAT = 30.0
"""Seconds."""

RETRY = Retry(tries=2)
"""The agent asks again itself, and shows in between that it does."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Upstream:
    """The server above.

    Attributes:
        url: `http(s)://host:port`.
        home: folder of the key by which it knows this edge, of the node id and of the journal.
        ca: whom to trust, for https; None for the authorities of the system.
    """

    url: str
    home: Path
    ca: Path | None = None


def serve_edge(
    run: Run,
    place: Place,
    upstream: Upstream,
    watcher: ServerWatcher,
    metrics: Metrics,
    scoreboard: Scoreboard,
    ready: Callable[[str], None],
    stopping: Callable[[], bool],
    pace: Pace = PACE,
) -> None:
    """Serve phones and run the rounds that the server above asks for, until the server is to stop.

    Args:
        run: bundle and configuration, in a state folder.
        place: where to listen.
        upstream: the server above.
        watcher: is told of everything.
        metrics, scoreboard: what the page and `/metrics` show; part of `watcher`.
        ready: called with the address when phones can come.
        stopping: asked all the time.
        pace: of asking for work.

    Raises:
        ConfigError: the configuration is not one for a tree.
        ServerError: the address cannot be listened at, or the server above refuses this edge for good.
        PolicyError, KeyFileError, HomeError: the home cannot be used.
    """
    config, rounds = run.config, run.rounds()
    check_tree(config, rounds)
    largest = largest_answer(rounds.aggregator, rounds.layout)
    fleet = Fleet(run.folder.path / DATABASE, largest)
    roster = Roster(requirements_of(config, run.bundle), may_be_edge=may_be_edge(fleet, config))
    history = History(run, watcher)
    scoreboard.restore(history.records())
    app = application(fleet, largest, place.enrolled_only, place.page_token, metrics, scoreboard, run.bundle)
    with contextlib.ExitStack() as stack:
        home = stack.enter_context(open_home(upstream.home))
        key = load_or_create_key(home.key)
        napping = Napping(roster, history, stopping)
        verify = trust(upstream.ca) if upstream.url.startswith("https") else None
        caller = stack.enter_context(
            Caller(
                upstream.url,
                key,
                verify=verify,
                max_answer=4 * rounds.layout.size + ENVELOPE,
                retry=RETRY,
                sleep=napping.nap,
            )
        )
        ready(stack.enter_context(Serving(app, place.host, place.port, place.tls)).url)
        stack.callback(_end, fleet)
        above = Above(caller)
        membership, journal = Membership(above, home.node, HEARTBEAT), Journal(home.journal)
        while not stopping():
            try:
                grid = FleetGrid(fleet, stopping=stopping)
                work = EdgeWork(key.number, rounds, roster, grid, history, stopping)
                agent = Agent(above, membership, journal, work, pace, napping.nap)
                napping.begin(grid, work, agent)
                napping.until(lambda: len(roster.eligible()) >= rounds.terms.minimum, rounds.terms.minimum)
                agent.run()
            except Stopped:
                return
            except DatabaseError as error:
                where = run.folder.path
                watcher.trouble(f"{where / DATABASE}: {error.orig}; make room in {where}")
                _pause(AGAIN, stopping)
            except GivenUp as error:
                watcher.trouble(f"a run is begun anew: {error}")
            except ServerError as error:
                raise ServerError(
                    f"{error}; an edge server's key is enrolled with: pocketfed enrol --edge"
                ) from error


class Napping:
    """What an edge does between two looks for work: it sees who is there, and shows that it waits."""

    def __init__(self, roster: Roster, watcher: ServerWatcher, stopping: Callable[[], bool]) -> None:
        self._roster, self._watcher, self._stopping = roster, watcher, stopping
        self._grid: FleetGrid | None = None
        self._work: EdgeWork | None = None
        self._agent: Agent | None = None
        self._told: HomeError | None = None

    def begin(self, grid: FleetGrid, work: EdgeWork, agent: Agent) -> None:
        """From here on, with these."""
        self._grid, self._work, self._agent = grid, work, agent

    def nap(self, seconds: float) -> None:
        """Wait.

        Raises:
            Stopped: the server is to stop.
            DatabaseError: the disk is full.
            GivenUp: Flower has ended the run.
        """
        until = time.monotonic() + seconds
        while True:
            self._look()
            self._tell(self._agent.trouble if self._agent else None)
            if (left := until - time.monotonic()) <= 0:
                return
            time.sleep(min(LOOK, left))

    def until(self, enough: Callable[[], bool], needed: int) -> None:
        """Wait for phones: an edge comes to its parent when it has some to offer. Raises what `nap` raises."""
        while True:
            self._look()
            if enough():
                return
            self._watcher.waiting(len(self._roster.eligible()), needed)
            time.sleep(LOOK)

    def _tell(self, trouble: PocketfedError | None) -> None:
        """Why there is no going on: this server's own disk, which is said once, or the server above."""
        if not isinstance(trouble, HomeError):
            self._watcher.upstream(None if trouble is None else str(trouble))
        elif trouble is not self._told:
            self._told = trouble
            self._watcher.trouble(str(trouble))

    def _look(self) -> None:
        if self._stopping():
            raise Stopped
        if self._work is not None and (fault := self._work.fault) is not None:
            raise fault
        if self._grid is not None:
            self._roster.refresh(self._grid)
        self._watcher.fleet(**self._roster.counts(), left_out=self._roster.left_out())


class History(Everyone):
    """Keeps what the edge's rounds came to, for its page; of the weights an edge keeps nothing. Passes everything on."""

    def __init__(self, run: Run, watcher: ServerWatcher) -> None:
        super().__init__(watcher)
        self._run = run
        self._metrics = MetricsFile(run.folder, 2**63)

    def records(self) -> list[Record]:
        """Of all rounds so far, as read from the disk."""
        return self._metrics.read()

    def finished(self, outcome: Outcome) -> None:
        """Write it down, then show it; a full disk costs the line and not the round."""
        began = time.monotonic()
        self._metrics.add(record_of(outcome))
        problem = None
        try:
            self._metrics.write()
        except OSError as error:
            place = self._run.folder.path
            problem = f"round {outcome.round} is not in the metrics ({error.strerror}); make room in {place}"
        took = time.monotonic() - began
        super().finished(outcome)
        if problem is None:
            self.saved(outcome.round, took)
        else:
            self.trouble(problem)


def _end(fleet: Fleet) -> None:
    with contextlib.suppress(DatabaseError):
        fleet.end_run()


def _pause(seconds: float, stopping: Callable[[], bool]) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until and not stopping():
        time.sleep(0.1)

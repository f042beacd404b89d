"""A deployed server from bundle to last round: the composition root of `pocketfed serve`."""

import errno
import logging
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from flwr.app import Context, RecordDict
from numpy.typing import NDArray

from pocketfed.core.bundle import Bundle, copy_bundle, read_bundle
from pocketfed.core.errors import ConfigError, RunFolderError
from pocketfed.server.aggregators import build_aggregator
from pocketfed.server.app import build_server_app
from pocketfed.server.checkpoint import Checkpoint, prune, recover, save_checkpoint
from pocketfed.server.enrolment import DATABASE
from pocketfed.server.fleet_grid import FleetGrid
from pocketfed.server.flower_private import DatabaseError, Fleet
from pocketfed.server.guard import Guard
from pocketfed.server.outcome import Outcome
from pocketfed.server.roster import Requirements, Roster
from pocketfed.server.serving import Serving, Tls
from pocketfed.server.terms import Rounds, Terms
from pocketfed.server.watch.bounded_body import BoundedBody
from pocketfed.server.watch.metrics import Metrics
from pocketfed.server.watch.request_times import RequestTimes
from pocketfed.server.watch.routes import watch_routes
from pocketfed.server.watch.scoreboard import Scoreboard
from pocketfed.server.watch.watcher import Everyone, ServerWatcher
from pocketfed.simulator import run_folder
from pocketfed.simulator.bundles import config_of, open_bundle
from pocketfed.simulator.config import Config
from pocketfed.simulator.plans import plan_of
from pocketfed.simulator.run_folder import RunFolder

BUNDLE = "bundle"
"""In the state folder, beside what a run folder has."""

ENVELOPE = 1 << 20
"""Bytes that an answer may have besides its weights."""

FULL = (errno.ENOSPC, errno.EDQUOT)

AGAIN = 5.0
"""Seconds after which a database that could not be written is tried again."""

log = logging.getLogger(__name__)


def rounds_of(config: Config, bundle: Bundle) -> Rounds:
    """What a deployed server decides."""
    wanted = config.deployment
    return Rounds(
        layout=bundle.read_layout(),
        aggregator=build_aggregator(config.aggregator, config.aggregation),
        plan=lambda number: plan_of(config, number),
        seed=config.seed,
        terms=Terms(
            participation=config.fleet.participation,
            minimum=wanted.minimum,
            over_selection=wanted.over_selection,
            deadline=wanted.deadline,
            quorum=wanted.quorum,
            attempts=wanted.attempts,
            patience=wanted.patience,
            late=wanted.late,
            in_order=False,
        ),
        guard=Guard(most_examples=wanted.most_examples, furthest=wanted.furthest),
    )


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


@dataclass(frozen=True)
class Run:
    """What a server goes on from.

    Attributes:
        folder: of the state.
        config: of the run.
        bundle: what phones learn.
        last: the newest checkpoint; round 0 holds the weights that the bundle came with.
        problems: checkpoints that could not be read, newest first.
    """

    folder: RunFolder
    config: Config
    bundle: Bundle
    last: Checkpoint
    problems: tuple[str, ...] = ()


def open_run(
    state: Path, bundle: Path, config: Config | None, rounds: int | None, tell: Callable[[str], None]
) -> Run:
    """Begin a run in an empty state folder, or go on with the one that is there.

    Args:
        state: folder; made if it is missing.
        bundle: see `open_bundle`.
        config: in place of the one that the bundle was made from, or that the run was begun with.
        rounds: in place of the configuration's.
        tell: is told of what takes long.

    Raises:
        UserError: the folder belongs to another bundle, or something cannot be used.
    """
    try:
        state.mkdir(parents=True, exist_ok=True)
        if RunFolder(state).config.is_file():
            return _go_on(RunFolder(state), bundle, config, rounds, tell)
        return _begin(RunFolder(state), bundle, config, rounds, tell)
    except OSError as error:
        raise RunFolderError(
            f"{state} cannot be used ({error}); make room, or choose another --state"
        ) from error


def _begin(
    folder: RunFolder, bundle: Path, config: Config | None, rounds: int | None, tell: Callable[[str], None]
) -> Run:
    """The configuration comes last, and makes the rest a run."""
    found = open_bundle(bundle, folder.path / BUNDLE, tell)
    chosen = _with_rounds(config or config_of(found), rounds)
    _check_fits(chosen, found)
    if found.folder != folder.path / BUNDLE:
        found = copy_bundle(found, folder.path / BUNDLE)
    record = run_folder.record_of(Outcome.untrained(found.weights))
    begun = Checkpoint(0, chosen.seed, found.weights, found.read_layout(), record)
    save_checkpoint(folder.checkpoints, begun)
    run_folder.begin(folder, chosen)
    return Run(folder, chosen, found, begun)


def _go_on(
    folder: RunFolder, bundle: Path, config: Config | None, rounds: int | None, tell: Callable[[str], None]
) -> Run:
    state = folder.path
    if not (state / BUNDLE).is_dir():
        raise RunFolderError(f"{state} is the folder of a simulation; choose another --state")
    found = read_bundle(state / BUNDLE)
    for litter in state.glob(".bundle-*"):  # of a server that was killed
        shutil.rmtree(litter, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=".bundle-", dir=state) as other:
        asked = open_bundle(bundle, Path(other), tell)
        if asked.spec != found.spec:
            raise RunFolderError(
                f"{state} belongs to a run of another network than {bundle}; choose another --state"
            )
    chosen = _with_rounds(config or run_folder.read_config(folder), rounds)
    _check_fits(chosen, found)
    last, problems = recover(folder.checkpoints)
    if last is None or last.layout != found.read_layout():
        raise RunFolderError(f"{state} has no checkpoint of its bundle; choose another --state, or empty it")
    run_folder.begin(folder, chosen)
    return Run(folder, chosen, found, last, tuple(problems))


def _with_rounds(config: Config, rounds: int | None) -> Config:
    return config if rounds is None else config.model_copy(update={"rounds": rounds})


def _check_fits(config: Config, bundle: Bundle) -> None:
    """A configuration may change how phones learn, not what."""
    made, wanted = config_of(bundle).learning, config.learning
    problems = [
        f"learning.{key}: the bundle was made with {getattr(made, key)!r} (got {getattr(wanted, key)!r})"
        for key in ("backbone", "batch", "optimiser", "mode")
        if getattr(made, key) != getattr(wanted, key)
    ]
    if problems:
        raise ConfigError(problems)


class Keeper(ServerWatcher):
    """Makes finished rounds safe: a checkpoint, then the metrics. A full disk stops neither this round nor later ones.

    Attributes:
        round: the last finished one.
        model: after it.
        problem: why that round is not on disk, or None.
    """

    def __init__(self, run: Run, roster: Roster, watcher: ServerWatcher) -> None:
        self._run, self._roster, self._watcher = run, roster, watcher
        self.round, self.model = run.last.round, run.last.model
        self.problem: str | None = None
        self._records = run_folder.read_metrics(run.folder, run.last.round)
        if not self._records or self._records[-1]["round"] < run.last.round:
            self._records.append(run.last.record)  # stopped between the checkpoint and the metrics
            with suppress(OSError):  # it will be tried again after the next round
                run_folder.write_metrics(run.folder, self._records)

    @property
    def records(self) -> list[run_folder.Record]:
        """Of all rounds so far."""
        return self._records

    def begun(self, round_number: int, attempt: int, cohort: Sequence[int], present: int) -> None:
        """Tell who is there."""
        self._watcher.fleet(**self._roster.counts())

    def waiting(self, present: int, needed: int) -> None:
        """Tell who is there."""
        self._watcher.fleet(**self._roster.counts())

    def finished(self, outcome: Outcome) -> None:
        """Persist a round; on a full disk, make room and try again, then leave it to the next round."""
        began = time.monotonic()
        self.round, self.model = outcome.round, outcome.model
        self._records.append(run_folder.record_of(outcome))
        try:
            self._save(outcome)
        except OSError as error:
            if error.errno not in FULL or not self._save_with_less(outcome):
                what = "make room in" if error.errno in FULL else "look after"
                place = self._run.folder.path
                self.problem = f"round {outcome.round} is not on disk ({error.strerror}); {what} {place}"
                self._watcher.trouble(self.problem)
                return
        self.problem = None
        self._watcher.saved(outcome.round, time.monotonic() - began)
        self._prune(self._run.config.deployment.keep_checkpoints)

    def _save_with_less(self, outcome: Outcome) -> bool:
        """Save once more, after giving up all earlier checkpoints but one; whether it worked."""
        self._prune(1)
        try:
            self._save(outcome)
        except OSError:
            return False
        return True

    def _prune(self, keep: int) -> None:
        with suppress(OSError):  # what cannot be removed is in nobody's way
            prune(self._run.folder.checkpoints, keep)

    def _save(self, outcome: Outcome) -> None:
        save_checkpoint(
            self._run.folder.checkpoints,
            Checkpoint(
                outcome.round,
                self._run.config.seed,
                outcome.weights,
                self._run.last.layout,
                self._records[-1],
                dict(self._roster.statuses),
                outcome.model.memory,
            ),
        )
        run_folder.write_metrics(self._run.folder, self._records)


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
        ServerError: the address cannot be listened at.
        NoPhonesError: too few phones came, or too few of them answered.
        RunFolderError: it is over, and its last round could not be written.
    """
    config, bundle = run.config, run.bundle
    for problem in run.problems:
        watcher.trouble(f"a checkpoint is damaged, the one before is used: {problem}")
    roster = Roster(requirements_of(config, bundle), statuses=dict(run.last.statuses))
    keeper = Keeper(run, roster, watcher)
    scoreboard.restore(keeper.records)
    largest = 4 * bundle.spec.weights + ENVELOPE
    fleet = Fleet(run.folder.path / DATABASE, largest)
    app = fleet.app(place.enrolled_only)
    app.router.routes.extend(watch_routes(scoreboard, metrics, place.page_token))
    app.add_middleware(BoundedBody, most=2 * largest)
    app.add_middleware(RequestTimes, metrics=metrics)
    rounds, everyone = rounds_of(config, bundle), Everyone(watcher, keeper)

    def run_rounds() -> None:
        numbers = range(keeper.round + 1, config.rounds + 1)
        server = build_server_app(rounds, keeper.model, numbers, roster, everyone, stopping=stopping)
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
    return True

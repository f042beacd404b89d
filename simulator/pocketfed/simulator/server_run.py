"""What a server goes on from: its state folder, made from a bundle at the first start."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from pocketfed.core.bundle import Bundle, is_bundle, read_bundle
from pocketfed.core.errors import BundleError, ConfigError, RunFolderError
from pocketfed.core.exclusive import exclusive
from pocketfed.server.checkpoint import Checkpoint, recover, save_checkpoint, set_aside
from pocketfed.server.outcome import Outcome
from pocketfed.server.terms import Rounds
from pocketfed.simulator import run_folder
from pocketfed.simulator.bundles import config_of, open_bundle, read_model, spec_of
from pocketfed.simulator.config import Config
from pocketfed.simulator.deployed_rounds import rounds_of
from pocketfed.simulator.private import check_privacy
from pocketfed.simulator.run_folder import RunFolder
from pocketfed.simulator.state_bundle import BUNDLE, NEW, install, settle


@dataclass(frozen=True)
class Run:
    """What a server goes on from.

    Attributes:
        folder: of the state.
        id: of the run, see `run_folder.read_id`.
        config: of the run.
        bundle: what phones learn.
        last: the newest checkpoint; round 0 holds the weights that the bundle came with.
        problems: checkpoints that could not be read and were set aside, newest first.
    """

    folder: RunFolder
    id: str
    config: Config
    bundle: Bundle
    last: Checkpoint
    problems: tuple[str, ...] = ()

    def rounds(self) -> Rounds:
        """What a server decides that goes on from here."""
        return rounds_of(self.config, self.bundle.read_layout(), self.id)


@contextmanager
def exclusive_state(state: Path) -> Iterator[None]:
    """Take a state folder, which is made if it is missing, for this server.

    Raises:
        RunFolderError: another server runs in it, or it cannot be used.
    """
    taken = RunFolderError(f"another server runs in {state}; stop it, or choose another --state")
    with ExitStack() as stack:
        try:
            state.mkdir(parents=True, exist_ok=True)
            stack.enter_context(exclusive(state, taken))
        except OSError as error:
            raise _unusable(state, error) from error
        yield


def open_run(
    state: Path,
    bundle: Path,
    config: Config | None,
    rounds: int | None,
    tell: Callable[[str], None],
    check: Callable[[Config], None] = lambda config: None,
) -> Run:
    """Begin a run in an empty state folder, or go on with the one that is there.

    Args:
        state: folder; made if it is missing.
        bundle: see `open_bundle`.
        config: in place of the one that the bundle was made from, or that the run was begun with.
        rounds: in place of the configuration's.
        tell: is told of what takes long.
        check: raises what this server cannot do of the configuration that is chosen.

    Raises:
        UserError: the folder belongs to another bundle, or something cannot be used; a run that is there is as it was.
    """

    def acceptable(chosen: Config, found: Bundle) -> None:
        _check_fits(chosen, found)
        rounds_of(chosen, found.read_layout(), run="")  # that the rule can take such rounds
        check(chosen)

    try:
        state.mkdir(parents=True, exist_ok=True)
        settle(state)
        if RunFolder(state).config.is_file():
            return _go_on(RunFolder(state), bundle, config, rounds, acceptable)
        return _begin(RunFolder(state), bundle, config, rounds, tell, acceptable)
    except OSError as error:
        raise _unusable(state, error) from error


def _unusable(state: Path, error: OSError) -> RunFolderError:
    return RunFolderError(f"{state} cannot be used ({error}); make room, or choose another --state")


def _begin(
    folder: RunFolder,
    bundle: Path,
    config: Config | None,
    rounds: int | None,
    tell: Callable[[str], None],
    check: Callable[[Config, Bundle], None],
) -> Run:
    """The configuration comes last, and makes the rest a run."""
    found = open_bundle(bundle, folder.path / NEW, tell)
    chosen = _with_rounds(config or read_model(bundle).config, rounds)
    check(chosen, found)
    check_privacy(chosen, folder.path, 0, deployed=True)
    if found.folder != folder.path / BUNDLE:
        found = install(found, folder.path)
    record = run_folder.record_of(Outcome.untrained(found.weights))
    begun = Checkpoint(0, chosen.seed, found.weights, found.read_layout(), record)
    save_checkpoint(folder.checkpoints, begun)
    run_folder.begin(folder, chosen)
    return Run(folder, run_folder.read_id(folder), chosen, found, begun)


def _go_on(
    folder: RunFolder,
    bundle: Path,
    config: Config | None,
    rounds: int | None,
    check: Callable[[Config, Bundle], None],
) -> Run:
    """A release takes the place of the one before when all else is decided: what is refused leaves that as it was."""
    state = folder.path
    if not (state / BUNDLE).is_dir():
        raise RunFolderError(f"{state} is the folder of a simulation; choose another --state")
    found = _newest(state, bundle)
    begun, run_id = run_folder.read_config(folder), run_folder.read_id(folder)
    chosen = _with_rounds(config or begun, rounds)
    check(chosen, found)
    if chosen.exchange.travels != begun.exchange.travels:
        now, then = (", ".join(one.exchange.travels) for one in (chosen, begun))
        raise ConfigError([f"exchange.travels: the run was begun with {then} (got {now})"])
    last, damaged = recover(folder.checkpoints)
    if last is None or last.layout != found.read_layout():
        raise RunFolderError(f"{state} has no checkpoint of its bundle; choose another --state, or empty it")
    check_privacy(chosen, state, last.round, deployed=True)
    if found.folder != state / BUNDLE:
        found = install(found, state)
    run_folder.begin(folder, chosen)
    return Run(folder, run_id, chosen, found, last, tuple(set_aside(damaged)))


def _newest(state: Path, bundle: Path) -> Bundle:
    """The state folder's bundle, or the given one if that is a later release of the same network; nothing is copied."""
    given = read_bundle(bundle) if is_bundle(bundle) else None
    try:
        found = read_bundle(state / BUNDLE)
    except BundleError as error:
        raise RunFolderError(
            f"the bundle of {state} is lost ({error}); put a copy of the release that it had in its place"
        ) from error
    if (spec_of(bundle) if given is None else given.spec) != found.spec:
        raise RunFolderError(
            f"{state} belongs to a run of another network than {bundle}; choose another --state"
        )
    if given is None or given.id == found.id:
        return found
    if given.version <= found.version:
        raise RunFolderError(
            f"{given.folder} is version {given.version}, and phones may have version {found.version} of {found.folder} "
            "already; release it with a higher one: pocketfed bundle --version"
        )
    return given


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

"""Privacy as a configuration asks for it, put around the rounds of any server."""

import secrets
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

from pocketfed.core.errors import ConfigError, RunFolderError
from pocketfed.server.outcome import RoundWatcher
from pocketfed.server.privacy.accountant import Release
from pocketfed.server.privacy.accounted import Accounted
from pocketfed.server.privacy.adaptive_clip import AdaptiveClip
from pocketfed.server.privacy.budget import Budget
from pocketfed.server.privacy.ledger import FILE, Ledger
from pocketfed.server.privacy.mechanism import Mechanism
from pocketfed.server.privacy.private_mean import PrivateMean
from pocketfed.server.terms import Rounds, Terms, sample_cohort
from pocketfed.simulator.config import Config, PrivacyConfig


def protect(
    config: Config,
    folder: Path,
    rounds: Rounds,
    numbers: Iterable[int],
    watcher: RoundWatcher,
    tell: Callable[[str], None],
) -> tuple[Rounds, Iterable[int], RoundWatcher]:
    """A server's rounds made private, or as they are if the configuration asks for no privacy.

    Args:
        config: of the run.
        folder: of the run, where the ledger is.
        rounds: what the server decides.
        numbers: of the rounds to come.
        watcher: is told of everything.
        tell: is told when the budget is spent.

    Returns:
        The same three: rounds with noise, those numbers that the budget allows, a watcher that keeps account.

    Raises:
        RunFolderError: the ledger is damaged.
    """
    wanted = config.privacy
    if wanted is None:
        return rounds, numbers, watcher
    budget, mechanism = budget_of(config, wanted, folder), mechanism_of(wanted)
    terms = replace(rounds.terms, count_refused=True)
    if wanted.population:  # the sample is of no fewer
        terms = replace(terms, minimum=wanted.population)
    aggregator = PrivateMean(rounds.aggregator, mechanism)
    # The run's seed is sent to phones; whom a round asks is not for them to know.
    private = replace(rounds, aggregator=aggregator, terms=terms, seed=secrets.randbits(128))
    return private, budget.affordable(numbers, tell), Accounted(watcher, budget, mechanism)


def check_privacy(config: Config, folder: Path, finished: int, deployed: bool) -> None:
    """Whether a run can begin, or go on, as its configuration says.

    Args:
        config: of the run.
        folder: of the run; need not be there yet.
        finished: rounds that it has behind it.
        deployed: whether phones come and go.

    Raises:
        ConfigError: with all mistakes.
        RunFolderError: its rounds so far were private and the next would not be, or the other way round, or it cannot be
            looked into.
    """
    wanted = config.privacy
    try:
        begun = (folder / FILE).exists()
    except OSError as error:  # whether there is a ledger is not guessed
        raise RunFolderError(f"{folder} cannot be used: {error.strerror}; choose another folder") from error
    if wanted is None:
        if begun:
            raise RunFolderError(
                f"{folder} was begun with privacy, which rounds without it would undo; keep its [privacy], or begin a "
                "new run"
            )
        return
    if finished and not begun:
        raise RunFolderError(
            f"{folder} has {finished} rounds without privacy, or has lost {FILE}; begin a new run with [privacy]"
        )
    problems = []
    if deployed and wanted.population:
        problems.append(
            "privacy.population: phones come and go, so a cohort is no random sample of a known population; leave it out "
            f"(got {wanted.population})"
        )
    elif wanted.population not in (0, config.fleet.phones):
        problems.append(
            f"privacy.population: the fleet has {config.fleet.phones} phones (got {wanted.population})"
        )
    if not begun and (
        least := Budget(Ledger(folder), release_of(config, wanted), 0, wanted.delta).after(1)
    ) > (wanted.epsilon):
        problems.append(
            f"privacy.epsilon: one round costs {least:.3f}; allow more, or raise privacy.noise_multiplier "
            f"(got {wanted.epsilon:g})"
        )
    if problems:
        raise ConfigError(problems)


def spent_up(config: Config, folder: Path) -> str | None:
    """Why a run can have no further round, or None if it can."""
    return None if config.privacy is None else budget_of(config, config.privacy, folder).spent_up()


def last_round(config: Config, folder: Path, finished: int) -> int:
    """The number of the last round that a run will have: the configuration's, or the one that its budget ends at."""
    if config.privacy is None:
        return config.rounds
    return finished + budget_of(config, config.privacy, folder).rounds_left(config.rounds - finished)


def mechanism_of(wanted: PrivacyConfig) -> Mechanism:
    """Clipping and noise."""
    adaptive = (
        AdaptiveClip(wanted.quantile, wanted.clip_rate, wanted.count_noise) if wanted.adaptive else None
    )
    return Mechanism(wanted.noise_multiplier, wanted.clip, wanted.updates, adaptive)


def release_of(config: Config, wanted: PrivacyConfig) -> Release:
    """What one round costs."""
    if not wanted.population:
        return Release(wanted.noise_multiplier)
    everybody, terms = list(range(wanted.population)), Terms(participation=config.fleet.participation)
    _, cohort = sample_cohort(everybody, terms, seed=0, round_number=1)
    return Release(wanted.noise_multiplier, wanted.population, len(cohort))


def budget_of(config: Config, wanted: PrivacyConfig, folder: Path) -> Budget:
    """Of a run, with what it has spent."""
    return Budget(Ledger(folder), release_of(config, wanted), wanted.epsilon, wanted.delta)

"""What a configuration must leave out where servers form a tree."""

from pocketfed.core.errors import ConfigError
from pocketfed.server.aggregators import check_is_sum
from pocketfed.server.terms import Rounds
from pocketfed.simulator.config import Config


def check_tree(config: Config, rounds: Rounds) -> None:
    """Whether a server with this configuration can have edge servers, or be one.

    Raises:
        ConfigError: the rule is no sum, or something else of it does not work in parts; all mistakes at once.
    """
    problems: list[str] = []
    try:
        check_is_sum(config.aggregator, rounds.aggregator, rounds.layout)
    except ConfigError as error:
        problems += error.problems
    if config.privacy is not None:
        problems.append(
            "privacy: in an edge server's sums nobody can see that each phone was clipped and counts once, which is what "
            "noise is measured by; leave [privacy] out, or serve all phones from one server"
        )
    if config.asynchronous.enabled:
        problems.append(
            "asynchronous.enabled: an edge server answers with sums over the weights that a round began with, which "
            "cannot be brought up to date when they come late; leave it out, or serve all phones from one server"
        )
    if problems:
        raise ConfigError(problems)

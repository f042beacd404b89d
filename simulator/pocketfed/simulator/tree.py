"""What a configuration must leave out where servers form a tree."""

from pocketfed.core.errors import ConfigError
from pocketfed.core.formats import Format
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
            "privacy: an edge server's fold is not private before the noise, and it sees its phones' updates; leave "
            "[privacy] out, or serve all phones from one server"
        )
    if config.asynchronous.enabled:
        problems.append(
            "asynchronous.enabled: an edge server answers for whole rounds; leave it out, or serve all phones from one "
            "server"
        )
    if config.exchange.download_format is not Format.FLOAT32:
        problems.append(
            "exchange.download_format: sums of an edge server are of weights that nobody rounded; set it to float32 "
            f"(got {config.exchange.download_format})"
        )
    if problems:
        raise ConfigError(problems)

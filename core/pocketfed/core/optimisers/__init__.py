"""The registry of optimisers that a learning step can hold. Adding one is a file beside this and a line below."""

from pocketfed.core.errors import ConfigError
from pocketfed.core.optimisers.adamw import ADAMW
from pocketfed.core.optimisers.gradient import multiplied, proximal
from pocketfed.core.optimisers.optimiser import Optimiser, Rates
from pocketfed.core.optimisers.sgd import NESTEROV, SGD

__all__ = [
    "ADAMW",
    "NESTEROV",
    "OPTIMISERS",
    "SGD",
    "Optimiser",
    "Rates",
    "choose_optimiser",
    "multiplied",
    "proximal",
]

OPTIMISERS = {optimiser.name: optimiser for optimiser in (SGD, NESTEROV, ADAMW)}


def choose_optimiser(name: str) -> Optimiser:
    """An optimiser by its name.

    Raises:
        ConfigError: there is none of this name.
    """
    if name not in OPTIMISERS:
        raise ConfigError([f"there is no optimiser named {name!r}; choose one of: {', '.join(OPTIMISERS)}"])
    return OPTIMISERS[name]

"""The registry of backbones: a name, a function that builds it, and the width of its features.

Adding one is a file beside this one and a line in `BACKBONES`; from outside the package, `register` in a file that
`plugins` names. `timm:NAME` is any network of timm, untrained.
"""

import difflib
from collections.abc import Callable

from torch import nn

from pocketfed.core.backbones import timm_network
from pocketfed.core.backbones.compact import Compact
from pocketfed.core.errors import ConfigError

BACKBONES: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "compact": (Compact, Compact.features),
}


def register(name: str, build: Callable[[], nn.Module], features: int) -> None:
    """Add a backbone: `build()` maps [n, 3, height, width] to [n, features]."""
    BACKBONES[name] = (build, features)


def build_backbone(name: str) -> tuple[nn.Module, int]:
    """A new backbone and the width of its features.

    Raises:
        ConfigError: no backbone has this name.
    """
    if (problem := unknown_backbone(name)) is not None:
        raise ConfigError([f"{name!r}: {problem}"])
    if name.startswith(timm_network.PREFIX):
        return timm_network.build(name.removeprefix(timm_network.PREFIX))
    build, features = BACKBONES[name]
    return build(), features


def unknown_backbone(name: str) -> str | None:
    """What is wrong with a name and what to use instead, or None if `build_backbone` knows it."""
    if name in BACKBONES:
        return None
    if not name.startswith(timm_network.PREFIX):
        return f"no such backbone; choose one of: {', '.join(sorted(BACKBONES))}, or timm:NAME"
    known = timm_network.names()
    asked = name.removeprefix(timm_network.PREFIX)
    if asked in known:
        return None
    close = difflib.get_close_matches(asked, known, n=3)
    return f"timm has no network of this name; near it are: {', '.join(close) or 'none'}"

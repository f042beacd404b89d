"""The registry of backbones: a name, a function that builds it, and the width of its features.

Adding one is a file beside this one and a line in `BACKBONES`; from outside the package, `register`.
"""

from collections.abc import Callable

from torch import nn

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
    if name not in BACKBONES:
        raise ConfigError(
            [f"there is no backbone named {name!r}; choose one of: {', '.join(sorted(BACKBONES))}"]
        )
    build, features = BACKBONES[name]
    return build(), features

"""The registry of backbones: a name, a function that builds it, and the width of its features.

Adding one is a file beside this one and a line in `BACKBONES`; from outside the package, `register` in a file that
`plugins` names. `timm:NAME` is a network of timm that takes inputs of any size, untrained, and `timm:NAME+groupnorm` the
same without batch normalisation. A family's bare name is its size for phones, 0.2 to 2 M parameters; published sizes have
a suffix or the name under which they are known. Files are imported when asked for.
"""

import difflib
from collections.abc import Callable
from importlib import import_module
from typing import Any

from torch import nn

from pocketfed.core.backbones import timm_network
from pocketfed.core.errors import ConfigError


def _beside(file: str, function: str, *arguments: Any) -> Callable[[], nn.Module]:
    """Calls a function of a file beside this one."""

    def build() -> nn.Module:
        backbone: nn.Module = getattr(import_module(f"{__name__}.{file}"), function)(*arguments)
        return backbone

    return build


def _forms(
    name: str, file: str, function: str, features: int
) -> dict[str, tuple[Callable[[], nn.Module], int]]:
    """FedRepOpt's five forms of a network; the bare name is the one trained by gradient multipliers."""
    forms = {name: "repopt"} | {f"{name}-{form}": form for form in ("target", "csla", "rep", "hs")}
    return {own: (_beside(file, function, form), features) for own, form in forms.items()}


PHONES = (
    "compact", "audio_rep_inception_next", "audio_inception_next", "resnet", "van", "repvgg", "ghost", "vit",
)  # fmt: skip
"""The sizes for phones."""

BACKBONES: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "compact": (_beside("compact", "Compact"), 160),
    "audio_rep_inception_next": (_beside("audio_rep_inception_next", "phone"), 256),
    "audio_rep_inception_next-full": (_beside("audio_rep_inception_next", "full"), 512),
    "audio_inception_next": (_beside("audio_inception_next", "phone"), 256),
    "audio_inception_next-full": (_beside("audio_inception_next", "full"), 512),
    "resnet": (_beside("resnet", "phone"), 192),
    "resnet18": (_beside("resnet", "resnet18"), 512),
    "resnet34": (_beside("resnet", "resnet34"), 512),
    "resnet18-small": (_beside("resnet", "resnet18", True), 512),
    "resnet34-small": (_beside("resnet", "resnet34", True), 512),
    "van": (_beside("van", "phone"), 128),
    "van-tiny": (_beside("van", "tiny"), 256),
    "van-small": (_beside("van", "small"), 512),
    "van-base": (_beside("van", "base"), 512),
    **_forms("repvgg", "repvgg", "phone", 128),
    "repvgg-initial": (_beside("repvgg", "phone", "repopt", False), 128),
    **_forms("repvgg-b1", "repvgg", "b1", 2048),
    **_forms("ghost", "ghost", "phone", 480),
    "ghost-initial": (_beside("ghost", "phone", "repopt", False), 480),
    **_forms("ghost-half", "ghost", "half", 1280),
    "vit": (_beside("vit", "phone"), 96),
    "vit_tiny": (_beside("vit", "vit_tiny"), 192),
}


def register(name: str, build: Callable[[], nn.Module], features: int) -> None:
    """Add a backbone: `build()` maps [n, 3, height, width] to [n, features]."""
    BACKBONES[name] = (build, features)


def build_backbone(name: str) -> tuple[nn.Module, int]:
    """A new backbone and the width of its features.

    Raises:
        ConfigError: no backbone has this name, or it is a network of timm that takes inputs of one size only.
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
        listed = ", ".join(known for known in BACKBONES if not _is_variant(known))
        return f"no such backbone; choose one of: {listed}, timm:NAME, or what `pocketfed backbones` lists"
    known = timm_network.names()
    asked = name.removeprefix(timm_network.PREFIX).removesuffix(timm_network.GROUPED)
    if asked in known:
        return None
    close = difflib.get_close_matches(asked, known, n=3)
    return "timm has no network of this name" + (f"; near it are: {', '.join(close)}" if close else "")


def _is_variant(name: str) -> bool:
    """Whether a name is that of another backbone with a suffix."""
    return any(name.startswith(f"{other}-") for other in BACKBONES)

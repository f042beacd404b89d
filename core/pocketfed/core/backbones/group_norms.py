"""Group normalisation in place of batch normalisation: no running statistics, nothing that captures share.

Alternating modalities mix running statistics, and a phone's few captures are a poor batch; both troubles end with them.
The layers begin anew, as all weights of a backbone here do.
"""

from torch import nn

from pocketfed.core.layout import BATCH_NORMS

MOST, LEAST = 8, 4
"""Groups at most, and channels of a group at least."""


def without_batch_norms(network: nn.Module) -> int:
    """Replace every batch normalisation within a network, with the activation that timm's carry.

    Returns:
        How many there were.
    """
    count = 0
    for parent in list(network.modules()):
        for name, part in list(parent.named_children()):
            if isinstance(part, BATCH_NORMS):
                setattr(parent, name, _instead_of(part))
                count += 1
    return count


def groups(channels: int) -> int:
    """The most groups, of 8, 4, 2 and 1, that divide the channels and leave each at least four of them."""
    fitting = (count for count in (MOST, 4, 2) if channels % count == 0 and channels // count >= LEAST)
    return next(fitting, 1)


def _instead_of(norm: nn.Module) -> nn.Module:
    channels: int = norm.num_features  # type: ignore[assignment]
    plain = nn.GroupNorm(groups(channels), channels)
    # timm's BatchNormAct2d is a normalisation, a dropout of blocks and an activation in one.
    rest = [part for name in ("drop", "act") if isinstance(part := getattr(norm, name, None), nn.Module)]
    return nn.Sequential(plain, *rest) if rest else plain

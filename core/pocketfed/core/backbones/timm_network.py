"""Networks of the timm library as backbones, without their classifier and without downloading weights.

Their batch normalisation stays: the batch's statistics in training, running ones (buffers of the layout, sent and
averaged like weights) in embedding. Alternating photos and sounds mix their statistics; networks with GroupNorm,
such as `compact`, do not have that trouble, and `timm:NAME+groupnorm` is NAME with group normalisation instead.
Dropout and DropPath are left out, since a learning step has no chance of its own.
"""

import torch
from torch import nn

from pocketfed.core.backbones.group_norms import without_batch_norms
from pocketfed.core.errors import ConfigError

PREFIX, GROUPED = "timm:", "+groupnorm"
SIDE = 64
"""Of the photo on which a network is tried: photos and sounds of every size go through it."""


def names() -> list[str]:
    """All networks that timm can build."""
    import timm

    return list(timm.list_models())


def build(name: str) -> tuple[nn.Module, int]:
    """A new network, [n, 3, height, width] -> [n, features], and the number of features.

    Args:
        name: of timm, perhaps with `+groupnorm` behind it.

    Raises:
        ConfigError: group normalisation is asked for, and the network has no batch normalisation; or it does not take
            inputs of any size.
    """
    import timm

    bare = name.removesuffix(GROUPED)
    network: nn.Module = timm.create_model(bare, pretrained=False, num_classes=0, drop_rate=0.0)
    if bare != name and not without_batch_norms(network):
        raise ConfigError([f"{bare} has no batch normalisation to replace; leave {GROUPED} out"])
    for part in network.modules():
        _leave_out_chance(part)
    return network, _features(bare, network)


def _features(name: str, network: nn.Module) -> int:
    network.eval()
    try:
        with torch.no_grad():
            features = int(network(torch.zeros(1, 3, SIDE, SIDE)).shape[1])
    except (AssertionError, RuntimeError, ValueError) as error:
        problem = (
            f"{PREFIX}{name} does not take inputs of {SIDE} x {SIDE} pixels ({error}); choose a network without a size "
            "of its own, as most convolutional ones are"
        )
        raise ConfigError([problem]) from error
    network.train()
    return features


def _leave_out_chance(part: nn.Module) -> None:
    for setting in ("p", "drop_prob"):  # of torch's dropouts, and of timm's
        if "drop" in type(part).__name__.lower() and isinstance(getattr(part, setting, None), float):
            setattr(part, setting, 0.0)

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


def names() -> list[str]:
    """All networks that timm can build."""
    import timm

    return list(timm.list_models())


def build(name: str) -> tuple[nn.Module, int]:
    """A new network, [n, 3, height, width] -> [n, features], and the number of features.

    Args:
        name: of timm, perhaps with `+groupnorm` behind it.

    Raises:
        ConfigError: group normalisation is asked for, and the network has no batch normalisation.
    """
    import timm

    bare = name.removesuffix(GROUPED)
    network: nn.Module = timm.create_model(bare, pretrained=False, num_classes=0, drop_rate=0.0)
    if bare != name and not without_batch_norms(network):
        raise ConfigError([f"{bare} has no batch normalisation to replace; leave {GROUPED} out"])
    for part in network.modules():
        _leave_out_chance(part)
    network.eval()
    with torch.no_grad():
        features = network(torch.zeros(1, 3, 64, 64)).shape[1]
    return network.train(), features


def _leave_out_chance(part: nn.Module) -> None:
    for setting in ("p", "drop_prob"):  # of torch's dropouts, and of timm's
        if "drop" in type(part).__name__.lower() and isinstance(getattr(part, setting, None), float):
            setattr(part, setting, 0.0)

"""Networks of the timm library as backbones, without their classifier and without downloading weights.

Their batch normalisation stays: the batch's statistics in training, running ones (buffers of the layout, sent and
averaged like weights) in embedding. Alternating photos and sounds mix their statistics; networks with GroupNorm,
such as `compact`, do not have that trouble.
"""

import torch
from torch import nn

PREFIX = "timm:"


def names() -> list[str]:
    """All networks that timm can build."""
    import timm

    return list(timm.list_models())


def build(name: str) -> tuple[nn.Module, int]:
    """A new network, [n, 3, height, width] -> [n, features], and the number of features."""
    import timm

    network: nn.Module = timm.create_model(name, pretrained=False, num_classes=0, drop_rate=0.0)
    network.eval()
    with torch.no_grad():
        features = network(torch.zeros(1, 3, 64, 64)).shape[1]
    return network.train(), features

"""One encoder for every modality: a backbone that turns an image-like input into features, and a projector."""

import torch
from torch import Tensor, nn


class Encoder(nn.Module):
    """Backbone and projector. Only `backbone` is used after training; the loss sees the projector's output.

    The names of the two children are the roles of the layout.
    """

    def __init__(self, backbone: nn.Module, features: int, hidden: int = 160, projection: int = 128) -> None:
        super().__init__()
        self.backbone = backbone
        self.projector = nn.Sequential(nn.Linear(features, hidden), nn.ReLU(), nn.Linear(hidden, projection))

    def forward(self, inputs: Tensor) -> Tensor:
        """[n, 3, height, width] -> [n, projection]."""
        projected: Tensor = self.projector(self.backbone(inputs))
        return projected


def build_encoder(name: str, seed: int) -> Encoder:
    """A freshly initialised encoder; the same seed gives the same weights. The global generator is left alone.

    Raises:
        ConfigError: no backbone has this name.
    """
    from pocketfed.core.backbones import build_backbone

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        backbone, features = build_backbone(name)
        return Encoder(backbone, features)

"""One encoder for every modality: a backbone that turns an image-like input into features, and a projector."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from pocketfed.core.layout import BATCH_NORMS


class Projector(nn.Module):
    """Linear, standardisation over the batch, SiLU, linear; what the loss sees, and gone after training.

    Without the standardisation (SimCLR has batch normalisation here) the views of an untrained network all point the
    same way, and rounds pass before the loss leaves its chance level. It has neither weights nor running statistics:
    it only ever sees training batches.
    """

    def __init__(self, features: int, hidden: int, projection: int) -> None:
        super().__init__()
        self.first = nn.Linear(features, hidden, bias=False)
        self.second = nn.Linear(hidden, projection)

    def forward(self, features: Tensor, valid: Tensor) -> Tensor:
        """[n, features], and float32 [n] of ones and zeros: which rows count -> [n, projection]."""
        x = self.first(features)  # [n, hidden]
        share = (valid / valid.sum()).unsqueeze(0)  # [1, n]
        x = x - torch.mm(share, x)
        x = x * torch.rsqrt(torch.mm(share, x * x) + 1e-5)
        projected: Tensor = self.second(functional.silu(x))
        return projected


class Encoder(nn.Module):
    """Backbone and projector. Only `backbone` is used after training; the loss sees the projector's output.

    The names of the two children are the roles of the layout.
    """

    def __init__(self, backbone: nn.Module, features: int, hidden: int = 160, projection: int = 128) -> None:
        super().__init__()
        self.backbone = backbone
        self.projector = Projector(features, hidden, projection)

    def forward(self, inputs: Sequence[Tensor], valid: Tensor) -> Tensor:
        """Views of one or several modalities, each [n_i, 3, h_i, w_i], and valid [sum n_i] -> [sum n_i, projection]."""
        projected: Tensor = self.projector(torch.cat([self.backbone(x) for x in inputs]), valid)
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
        for part in backbone.modules():
            if isinstance(part, BATCH_NORMS):
                part.num_batches_tracked = None  # an integer that no formula here reads
        return Encoder(backbone, features)

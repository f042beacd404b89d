"""What a federation learns together: one encoder, the views of each modality, the batch and the optimiser."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from pocketfed.core.encoder import Encoder, build_encoder
from pocketfed.core.errors import ConfigError
from pocketfed.core.gradient_multipliers import gradient_multipliers
from pocketfed.core.layout import Layout
from pocketfed.core.modality import Modality
from pocketfed.core.optimisers import SGD, Optimiser
from pocketfed.core.views import View


@dataclass(frozen=True)
class LearningTask:
    """Everything that fixes the shape of the learning step; its numbers travel in `Hyper`.

    Attributes:
        backbone: its name in the registry.
        encoder: structure only; the weights always come from outside as a flat vector.
        layout: of that vector.
        views: one per modality that the federation learns from.
        batch: captures per step; each gives two views.
        optimiser: the update rule inside the step.
        multipliers: constants that the gradient is multiplied with, float32 [layout.trained]; none for most backbones.
    """

    backbone: str
    encoder: Encoder
    layout: Layout
    views: Mapping[Modality, View]
    batch: int
    optimiser: Optimiser = SGD
    multipliers: Tensor | None = None

    @property
    def state_size(self) -> int:
        """Length of the optimiser's state vector."""
        return self.optimiser.state_size(self.layout.trained)


def learning_task(
    backbone: str, views: Mapping[Modality, View], batch: int, optimiser: Optimiser = SGD
) -> LearningTask:
    """Build a task.

    Raises:
        ConfigError: no backbone has this name, or it needs gradient multipliers, which the optimiser makes void.
    """
    encoder = build_encoder(backbone, seed=0)
    layout = Layout.of(encoder)
    multipliers = gradient_multipliers(encoder, layout)
    if multipliers is not None and not optimiser.linear:
        problem = f"{backbone!r} is trained by gradient multipliers, and {optimiser.name} is not linear in the gradient"
        raise ConfigError([f"{problem}; choose sgd or sgd-nesterov, or another backbone"])
    return LearningTask(backbone, encoder, layout, dict(views), batch, optimiser, multipliers)


def initial_weights(task: LearningTask, seed: int) -> NDArray[np.float32]:
    """Untrained weights, float32 [layout.size]; a function of the backbone and the seed only."""
    encoder = build_encoder(task.backbone, seed)
    vector: NDArray[np.float32] = task.layout.pack(Layout.values(encoder)).numpy()
    return vector

"""A backbone, and a classifier's head, with weights inside; every inference program is made of them."""

import copy

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from pocketfed.core.backbones.folding import can_fuse, fuse
from pocketfed.core.head import Head
from pocketfed.core.learning_task import LearningTask


def bound_backbone(task: LearningTask, weights: NDArray[np.float32]) -> nn.Module:
    """The task's backbone with these weights (float32 [layout.size]), frozen, parallel linear branches fused.

    It maps float32 [n, 3, height, width] to [n, features].
    """
    encoder = copy.deepcopy(task.encoder)
    task.layout.load(encoder, torch.from_numpy(weights.copy()))
    backbone = encoder.backbone.requires_grad_(False).eval()
    return fuse(backbone) if can_fuse(backbone) else backbone


def bound_head(head: Head | None) -> nn.Module:
    """The head, frozen: features [n, features] -> scores [n, classes]; without one, features stay features."""
    if head is None:
        return nn.Identity()
    classes, features = head.weight.shape
    linear = nn.Linear(features, classes)
    linear.load_state_dict({"weight": torch.from_numpy(head.weight), "bias": torch.from_numpy(head.bias)})
    return linear.requires_grad_(False).eval()

"""A plug-in with a network of two convolutions, where it does not matter what learns: it is exported in a few seconds."""

from pathlib import Path

from pocketfed.core.learning_task import LearningTask, learning_task
from pocketfed.core.modality import Modality
from pocketfed.core.optimisers import SGD, Optimiser
from pocketfed.core.plugins import load_plugins
from pocketfed.core.views import PhotoView, SoundView, View

SMALL = """
from torch import nn
from pocketfed.core.backbones import register

def build():
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, 2, 1), nn.GroupNorm(4, 16), nn.SiLU(), nn.Conv2d(16, 32, 3, 2, 1),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(),
    )

register("small", build, 32)
"""


def small_network_task(folder: Path, batch: int, optimiser: Optimiser = SGD) -> LearningTask:
    """Both modalities, small inputs; the plug-in is written into a folder and loaded."""
    plugin = folder / "small.py"
    plugin.write_text(SMALL)
    load_plugins([plugin])
    views: dict[Modality, View] = {
        Modality.PHOTO: PhotoView(side=16),
        Modality.SOUND: SoundView(samples=4000, height=16, width=16),
    }
    return learning_task("small", views, batch, optimiser)

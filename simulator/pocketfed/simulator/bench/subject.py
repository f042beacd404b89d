"""What is benchmarked: a task with weights and captures, and the work folder through which child processes get it."""

import copy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pocketfed.core.captures import embedded_photos, embedded_sounds
from pocketfed.core.hyper import HYPER, Hyper
from pocketfed.core.learning_step import Method, learn_from_views
from pocketfed.core.learning_task import LearningTask
from pocketfed.core.modality import Modality
from pocketfed.core.objectives import nt_xent
from pocketfed.mobile_client.runtime import Array
from pocketfed.simulator.config import Config
from pocketfed.simulator.config_file import build_config, read_toml
from pocketfed.simulator.program import task_of

WEIGHTS = "weights.npy"

FEWEST = 32
"""Captures are drawn in classes, with some of each held out; this many more than needed always suffice."""

GENTLE = Hyper(learning_rate=1e-3)
"""Small steps: they cost the same, and rounding errors do not grow into other trajectories."""


@dataclass(frozen=True)
class Subject:
    """A task, float32 [layout.size] weights, and the configuration that both come from."""

    config: Config
    task: LearningTask
    weights: NDArray[np.float32]


def load_subject(folder: Path) -> Subject:
    """The subject of a work folder: its configuration, modalities and weights."""
    config = build_config(read_toml(folder / "config.toml"))
    modalities = [Modality(name) for name in (folder / "modalities").read_text().split()]
    return Subject(config, task_of(config, modalities), np.load(folder / WEIGHTS, allow_pickle=False))


def captures_of(subject: Subject, modality: Modality, count: int) -> Array:
    """Captures that the package makes itself, [count, *capture_shape]."""
    wanted = subject.config.captures
    if modality is Modality.PHOTO:
        return embedded_photos(2 * count + FEWEST, wanted.side).train.items[:count]
    return embedded_sounds(2 * count + FEWEST, wanted.seconds).train.items[:count]


def inputs_of(subject: Subject, method: Method) -> list[Array]:
    """Inputs of a step or an embedding of the task's program: weights, captures, random numbers, rates."""
    what, _, name = method.name.partition("_")
    modality, size = Modality(name), subject.task.batch
    captures = captures_of(subject, modality, size)
    if what == "embed":
        return [subject.weights, captures]
    state = np.zeros(subject.task.state_size, dtype=np.float32)
    noise = np.random.default_rng(0).random(tuple(method.example[4].shape), dtype=np.float32)
    return [subject.weights, state, subject.weights.copy(), captures, noise, GENTLE.vector([size])]


def views_of(subject: Subject, modality: Modality) -> Tensor:
    """One batch of augmented views, float32 [2b, 3, h, w]: what peers train on, who cannot augment."""
    view, size = subject.task.views[modality], subject.task.batch
    base = view.front(torch.from_numpy(captures_of(subject, modality, size)))
    noise = torch.rand((2 * size, len(view.noise)), generator=torch.Generator().manual_seed(0))
    return view.draw(torch.cat([base, base]), noise)


def views_method(subject: Subject, modality: Modality) -> Method:
    """The learning step without augmentation: (theta, state, views, hyper) -> (loss, theta', state')."""
    task = subject.task

    def step(theta: Tensor, state: Tensor, views: Tensor, hyper: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        rates = dict(zip(HYPER, hyper, strict=True))
        return learn_from_views(task, theta, state, theta, [views], [torch.ones(task.batch)], rates)

    views = views_of(subject, modality)
    hyper = torch.from_numpy(GENTLE.vector([]))
    example = (torch.from_numpy(subject.weights.copy()), torch.zeros(task.state_size), views, hyper)
    return Method(f"views_{modality}", step, example)


class ViewsLoss(nn.Module):
    """Views [2b, 3, h, w] -> loss []: the same learning problem as an ordinary module, for peers."""

    def __init__(self, subject: Subject) -> None:
        super().__init__()
        task = subject.task
        self.encoder, self.batch = copy.deepcopy(task.encoder), task.batch
        task.layout.load(self.encoder, torch.from_numpy(subject.weights))

    def forward(self, views: Tensor) -> Tensor:
        """See the class."""
        first, second = self.encoder([views], torch.ones(2 * self.batch)).split(self.batch)
        return nt_xent(first, second, torch.tensor(GENTLE.temperature), torch.ones(self.batch))

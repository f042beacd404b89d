"""What a peer is: another engine that trains the same network on the same batch."""

import copy
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Protocol

import torch
from torch import Tensor, nn

from pocketfed.core.errors import MissingPackageError, PeerError


@dataclass(frozen=True)
class Workload:
    """One training problem that every contestant solves.

    Attributes:
        module: views float32 [2b, 3, h, w] -> loss float32 []; encoder and NT-Xent are inside. Nobody changes it.
        views: the fixed batch.
        learning_rate: of SGD as `torch.optim.SGD` defines it, like `momentum` and `weight_decay`.
        threads: how many a contestant may use.
    """

    module: nn.Module
    views: Tensor
    learning_rate: float
    momentum: float
    weight_decay: float
    threads: int


class Trainer(Protocol):
    """A network in training; its weights and its momentum are inside."""

    def step(self) -> float:
        """One step of SGD on the workload's views; returns the loss before the update."""
        ...


@dataclass(frozen=True)
class Peer:
    """An engine by name; its packages are imported when it is built.

    Attributes:
        name: what the command line calls it.
        requirement: the line that installs it.
        packages: what must be importable.
        module: the module of this folder whose `build(workload)` makes a trainer.
    """

    name: str
    requirement: str
    packages: tuple[str, ...]
    module: str

    def available(self) -> bool:
        """Whether its packages are installed."""
        return all(_importable(package) for package in self.packages)

    def build(self, workload: Workload) -> Trainer:
        """A trainer that starts with the weights of the workload's module.

        Raises:
            MissingPackageError: its packages are absent.
            PeerError: it cannot train this network.
        """
        if not self.available():
            raise MissingPackageError(
                f"the peer {self.name!r} is not installed; install it: {self.requirement}"
            )
        build: Callable[[Workload], Trainer] = importlib.import_module(self.module).build
        return build(workload)


def _importable(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ModuleNotFoundError:  # of a submodule whose parent is absent
        return False


class EagerTrainer:
    """PyTorch itself, by which peers are judged."""

    def __init__(self, workload: Workload, nudged: bool = False) -> None:
        """`nudged`: begin with weights that are one rounding larger."""
        self._module, self._views = copy.deepcopy(workload.module), workload.views
        if nudged:
            with torch.no_grad():
                for weight in self._module.parameters():
                    weight.copy_(torch.nextafter(weight, torch.tensor(torch.inf)))
        self._optimiser = torch.optim.SGD(
            self._module.parameters(),
            workload.learning_rate,
            workload.momentum,
            weight_decay=workload.weight_decay,
        )

    def step(self) -> float:
        """See `Trainer`."""
        self._optimiser.zero_grad()
        loss: Tensor = self._module(self._views)
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimiser.step()
        return loss.item()


def check_losses(trainer: Trainer, workload: Workload, steps: int = 4, tolerance: float = 1e-4) -> None:
    """Train a fresh trainer and eager PyTorch side by side.

    Raises:
        PeerError: a loss differs from eager's by more than `tolerance`, relative to it, and ten times what a rounding
            of the first weights makes of it: networks with kinks amplify roundings, whoever trains them.
    """
    eager, nudged = EagerTrainer(workload), EagerTrainer(workload, nudged=True)
    for step in range(1, steps + 1):
        loss, expected, other = trainer.step(), eager.step(), nudged.step()
        allowed = tolerance * abs(expected) + 10.0 * abs(other - expected)
        if not abs(loss - expected) <= allowed:  # a loss that is not a number fails too
            raise PeerError(
                f"its loss of step {step} is {loss:.7g}, eager PyTorch's is {expected:.7g}: it trains another problem"
            )

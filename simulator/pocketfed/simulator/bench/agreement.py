"""How far a program and eager PyTorch part while both train, next to how far two eager runs do that rounding parts."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pocketfed.mobile_client.runtime import Array, Runtime

TIGHT = 1e-4
"""Relative difference of changes that is nothing but rounding, even after cancellation."""

NUDGES = 10.0
"""How many times as far as the nudged eager run a program may be; its roundings are many, the nudge is one."""


@dataclass(frozen=True)
class Agreement:
    """Relative differences of two runs over the same steps.

    Attributes:
        loss: the largest of a step's loss.
        weights: of the weights at the end.
        change: of what the steps changed; the larger of that of trained weights and that of running statistics.
    """

    loss: float
    weights: float
    change: float


@dataclass(frozen=True)
class Verdict:
    """A program against eager, and eager with first weights that are one rounding off against eager."""

    program: Agreement
    nudged: Agreement

    @property
    def holds(self) -> bool:
        """Whether the program's differences are those of rounding."""
        ours, theirs = self.program, self.nudged
        return all(
            mine <= max(TIGHT, NUDGES * fair)
            for mine, fair in ((ours.loss, theirs.loss), (ours.change, theirs.change))
        )


def agree(
    program: Runtime, eager: Runtime, method: str, inputs: Sequence[Array], trained: int, steps: int
) -> Verdict:
    """Train with both, from the same weights, on the same captures, with fresh random numbers in every step.

    Args:
        program, eager: both have the method.
        method: a learning step.
        inputs: of its first step.
        trained: how many of the weights the optimiser moves; the rest are running statistics.
        steps: how many.
    """
    rng = np.random.default_rng(1)
    first, others = list(inputs[:2]), [np.nextafter(inputs[0], np.float32(np.inf)), inputs[1]]
    runs = {"eager": (eager, list(first)), "program": (program, list(first)), "nudged": (eager, others)}
    losses: dict[str, list[Array]] = {name: [] for name in runs}
    for _ in range(steps):
        rest = [rng.random(x.shape, dtype=np.float32) if i % 2 else x for i, x in enumerate(inputs[3:-1])]
        for name, (runtime, own) in runs.items():
            loss, *own[:] = runtime.run(method, [*own, inputs[2], *rest, inputs[-1]])
            losses[name].append(loss)
    ends = {name: own[0] for name, (_, own) in runs.items()}

    def compare(name: str) -> Agreement:
        loss = max(relative(a, b) for a, b in zip(losses[name], losses["eager"], strict=True))
        pieces = [piece for piece in (slice(0, trained), slice(trained, None)) if inputs[0][piece].size]
        change = max(
            relative(ends[name][piece] - inputs[0][piece], ends["eager"][piece] - inputs[0][piece])
            for piece in pieces
        )
        return Agreement(loss, relative(ends[name], ends["eager"]), change)

    return Verdict(compare("program"), compare("nudged"))


def relative(ours: Array, theirs: Array) -> float:
    """The norm of a difference over that of the second."""
    return float(np.linalg.norm(ours - theirs) / max(float(np.linalg.norm(theirs)), 1e-12))

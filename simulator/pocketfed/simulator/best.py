"""FASSL's selection: for each downstream task, the best global model so far is kept (arXiv 2402.02889).

A task is a modality and a way to judge it, `sound-knn` for one. After each round that was evaluated, the model is kept
for those tasks in which it is better than every one before, as `checkpoints/best-TASK.safetensors`, a copy of the
round's checkpoint. Of equals the earliest stays; different tasks may keep different rounds. It changes nothing about
training (which the paper leaves open; our choice), and the untrained encoder takes no part.

What is kept follows from the metrics alone, so a run that was killed in between is mended when it goes on.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pocketfed.core.atomic import write_atomically
from pocketfed.core.errors import RunFolderError
from pocketfed.server.checkpoint import load_checkpoint, path_of

MEASURES = ("knn", "probe")
"""How a frozen encoder is judged: keys of `metrics.jsonl`."""


@dataclass(frozen=True)
class Best:
    """The best a run did in a task: a share of correct answers, and the round."""

    accuracy: float
    round: int


def best_so_far(records: Sequence[Mapping[str, Any]]) -> dict[str, Best]:
    """By task, over the records of trained rounds, which are in order."""
    best: dict[str, Best] = {}
    for record in records:
        for measure in MEASURES if record["round"] > 0 else ():
            for modality, accuracy in record.get(measure, {}).items():
                task = f"{modality}-{measure}"
                if math.isfinite(accuracy) and (task not in best or accuracy > best[task].accuracy):
                    best[task] = Best(accuracy, record["round"])
    return best


def best_path(checkpoints: Path, task: str) -> Path:
    """Where the best model of a task lies."""
    return checkpoints / f"best-{task}.safetensors"


def keep_best(checkpoints: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """Make the folder hold the best model of each task, and none that the records do not know."""
    wanted = {best_path(checkpoints, task): best.round for task, best in best_so_far(records).items()}
    for path, number in wanted.items():
        source = path_of(checkpoints, number)
        if source.exists() and _round_of(path) != number:
            write_atomically(path, source.read_bytes())
    for path in checkpoints.glob("best-*.safetensors"):
        if path not in wanted:
            path.unlink()


def _round_of(path: Path) -> int | None:
    """Which round a kept model is of; None if there is none that can be read."""
    try:
        return load_checkpoint(path).round
    except RunFolderError:
        return None

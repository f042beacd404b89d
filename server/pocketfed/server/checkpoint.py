"""A checkpoint after every round: all that is needed to go on, in one safetensors file, never a pickle."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from pocketfed.core.atomic import write_atomically
from pocketfed.core.errors import RunFolderError
from pocketfed.core.layout import Layout

FORMAT = "1"


@dataclass(frozen=True)
class Checkpoint:
    """The state of a run between two rounds.

    Attributes:
        round: how many rounds are finished; 0 is the untrained encoder.
        seed: of the run. With the round it determines every random number to come.
        weights: float32 [layout.size].
        layout: of the weights.
        record: what is known of the round, as in `metrics.jsonl`.
    """

    round: int
    seed: int
    weights: NDArray[np.float32]
    layout: Layout
    record: dict[str, Any]


def path_of(folder: Path, round_number: int) -> Path:
    """Where the checkpoint of a round lies."""
    return folder / f"round-{round_number:05d}.safetensors"


def save_checkpoint(folder: Path, checkpoint: Checkpoint) -> Path:
    """Write a checkpoint; it is whole or not there."""
    folder.mkdir(parents=True, exist_ok=True)
    metadata = {
        "format": FORMAT,
        "round": str(checkpoint.round),
        "seed": str(checkpoint.seed),
        "layout": checkpoint.layout.to_json(),
        "record": json.dumps(checkpoint.record),
    }
    path = path_of(folder, checkpoint.round)
    write_atomically(path, save({"weights": checkpoint.weights}, metadata=metadata))
    return path


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint.

    Raises:
        RunFolderError: the file is missing, damaged, or written by another version.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            metadata, weights = file.metadata() or {}, file.get_tensor("weights")
    except (
        OSError,
        SafetensorError,
        AttributeError,
        TypeError,
    ) as error:  # the latter: a dtype without numpy
        raise RunFolderError(
            f"{path} cannot be read ({error}); remove it to go on from the round before"
        ) from error
    if metadata.get("format") != FORMAT:
        raise RunFolderError(
            f"{path} has format {metadata.get('format')!r}, this version reads {FORMAT!r}; "
            "use the version of pocketfed that wrote it"
        )
    try:
        layout = Layout.from_json(metadata["layout"])
        round_number, seed = int(metadata["round"]), int(metadata["seed"])
        record = json.loads(metadata["record"])
        if round_number < 0 or record["round"] != round_number:
            raise ValueError(f"round {round_number}")
    except Exception as error:  # a foreign file may hold anything
        raise RunFolderError(
            f"{path} does not describe a round ({error!r}); the file is damaged or foreign, "
            "remove it to go on from the round before"
        ) from error
    if weights.shape != (layout.size,) or weights.dtype != np.float32:
        raise RunFolderError(
            f"{path} does not hold {layout.size} float32 weights; the file is damaged or foreign"
        )
    return Checkpoint(round_number, seed, weights, layout, record)


def newest(folder: Path) -> Path | None:
    """The checkpoint of the last finished round, or None."""
    found = [path for path in folder.glob("round-*.safetensors") if re.fullmatch(r"round-\d+", path.stem)]
    return max(found, key=lambda path: int(path.stem.removeprefix("round-")), default=None)

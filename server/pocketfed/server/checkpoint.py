"""A checkpoint after every round: all that is needed to go on, in one safetensors file, never a pickle."""

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from pocketfed.core.atomic import write_atomically
from pocketfed.core.errors import RunFolderError
from pocketfed.core.layout import Layout
from pocketfed.core.parsing import parse_json
from pocketfed.core.plan import PhoneStatus
from pocketfed.core.wire import read_status, status_items
from pocketfed.server.aggregators import GlobalModel, Memory

FORMAT = "1"
WEIGHTS, MEMORY = "weights", "memory."
"""Names of tensors; the rule's own follow the prefix."""

DAMAGED = ".damaged"
"""Behind the name of a checkpoint that was set aside."""


@dataclass(frozen=True)
class Checkpoint:
    """The state of a run between two rounds.

    Attributes:
        round: how many rounds are finished; 0 is the untrained encoder.
        seed: of the run. With the round it determines every random number to come.
        weights: float32 [layout.size].
        layout: of the weights.
        record: what is known of the round, as in `metrics.jsonl`.
        statuses: what phones said of themselves, by Flower's node id; empty where phones are emulated.
        memory: what the aggregation rule keeps from round to round.
    """

    round: int
    seed: int
    weights: NDArray[np.float32]
    layout: Layout
    record: dict[str, Any]
    statuses: Mapping[int, PhoneStatus] = field(default_factory=dict)
    memory: Memory = field(default_factory=dict)

    @property
    def model(self) -> GlobalModel:
        """To go on from."""
        return GlobalModel(self.weights, self.memory)


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
        "statuses": json.dumps({node: status_items(s) for node, s in checkpoint.statuses.items()}),
    }
    tensors = {WEIGHTS: checkpoint.weights}
    tensors |= {MEMORY + name: np.asarray(kept, order="C") for name, kept in checkpoint.memory.items()}
    metadata["sha256"] = _digest(metadata, tensors)
    path = path_of(folder, checkpoint.round)
    write_atomically(path, save(tensors, metadata=metadata))
    return path


def _digest(metadata: Mapping[str, str], tensors: Mapping[str, NDArray[Any]]) -> str:
    """SHA-256 (hex) of all that a checkpoint says; safetensors itself notices no changed bit in a tensor."""
    told = json.dumps(sorted(item for item in metadata.items() if item[0] != "sha256"))
    digest = hashlib.sha256(told.encode())
    for name in (WEIGHTS, *sorted(tensors.keys() - {WEIGHTS})):
        if name != WEIGHTS:  # whose shape and dtype are checked, and which older files have alone
            digest.update(f"{name} {tensors[name].dtype} {tensors[name].shape}".encode())
        digest.update(tensors[name].tobytes())
    return digest.hexdigest()


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint.

    Raises:
        RunFolderError: the file is missing, damaged, or written by another version.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            metadata, tensors = file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            weights = tensors[WEIGHTS]
    except (
        OSError,
        SafetensorError,
        AttributeError,
        KeyError,
        TypeError,
    ) as error:  # the latter: a dtype without numpy
        raise RunFolderError(f"{path} cannot be read ({error})") from error
    if metadata.get("sha256") not in (None, _digest(metadata, tensors)):  # older files have none
        raise RunFolderError(f"{path} is damaged (its hash is wrong)")
    if metadata.get("format") != FORMAT:
        raise RunFolderError(
            f"{path} has format {metadata.get('format')!r}, this version reads {FORMAT!r}; "
            "use the version of pocketfed that wrote it"
        )
    try:
        layout = Layout.from_json(metadata["layout"])
        round_number, seed = int(metadata["round"]), int(metadata["seed"])
        record = parse_json(metadata["record"])
        statuses = {int(n): read_status(s) for n, s in parse_json(metadata.get("statuses", "{}")).items()}
        if round_number < 0 or record["round"] != round_number:
            raise ValueError(f"round {round_number}")
    except Exception as error:  # a foreign file may hold anything
        raise RunFolderError(
            f"{path} does not describe a round ({error!r}); the file is damaged or foreign"
        ) from error
    if weights.shape != (layout.size,) or weights.dtype != np.float32:
        raise RunFolderError(
            f"{path} does not hold {layout.size} float32 weights; the file is damaged or foreign"
        )
    memory = {name.removeprefix(MEMORY): kept for name, kept in tensors.items() if name.startswith(MEMORY)}
    return Checkpoint(round_number, seed, weights, layout, record, statuses, memory)


def saved_rounds(folder: Path, ending: str = "") -> list[Path]:
    """The checkpoints of a folder, the oldest first; or the files that have `ending` behind such a name."""
    name = re.compile(rf"round-(\d+)\.safetensors{re.escape(ending)}")
    found = [(int(match[1]), path) for path in folder.glob("round-*") if (match := name.fullmatch(path.name))]
    return [path for _, path in sorted(found)]


def newest(folder: Path) -> Path | None:
    """The checkpoint of the last finished round, or None."""
    found = saved_rounds(folder)
    return found[-1] if found else None


def recover(folder: Path) -> tuple[Checkpoint | None, dict[Path, str]]:
    """The newest checkpoint that can be read, and those after it with what is wrong with each, the newest first.

    Raises:
        RunFolderError: there are checkpoints, and none of them can be read.
    """
    damaged: dict[Path, str] = {}
    for path in reversed(saved_rounds(folder)):
        try:
            return load_checkpoint(path), damaged
        except RunFolderError as error:
            damaged[path] = str(error)
    if damaged:
        problem = next(iter(damaged.values()))
        raise RunFolderError(f"no checkpoint in {folder} can be read, so begin anew elsewhere: {problem}")
    return None, {}


def set_aside(damaged: Mapping[Path, str]) -> list[str]:
    """Rename what `recover` could not read; what was wrong with each file, and its name now.

    For whoever goes on with the run: a damaged file must not stand for a round any more, or it would be kept in the
    place of a good one. If the process is killed in between, the rest is found damaged once more.

    Raises:
        RunFolderError: one of them cannot be renamed.
    """
    told = []
    for path, problem in damaged.items():
        aside = path.with_name(path.name + DAMAGED)
        try:
            os.replace(path, aside)
        except OSError as error:
            raise RunFolderError(
                f"{problem}, and it cannot be renamed ({error.strerror}); move it elsewhere to go on without it"
            ) from error
        told.append(f"{problem}; it is kept as {aside.name}")
    return told


def prune(folder: Path, keep: int) -> None:
    """Remove all checkpoints but round 0, which runs are compared with, and the last `keep` ones.

    Of those that were set aside as many are kept. What a process that was killed while it wrote has left behind goes
    too, so nobody else may be writing here.
    """
    old = (*saved_rounds(folder)[1:-keep], *saved_rounds(folder, DAMAGED)[:-keep])
    for path in (*old, *folder.glob(".round-*")):
        path.unlink(missing_ok=True)

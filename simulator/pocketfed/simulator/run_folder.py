"""The folder of a run: `config.toml`, `metrics.jsonl`, `checkpoints/`, `report.html`."""

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pocketfed.core.atomic import write_atomically
from pocketfed.core.errors import ConfigError, RunFolderError
from pocketfed.server.checkpoint import Checkpoint, load_checkpoint, newest, path_of
from pocketfed.simulator.config import Config, build_config, read_toml, to_toml

Record = dict[str, Any]
"""One line of `metrics.jsonl`; docs/simulate.md lists its keys."""


@dataclass(frozen=True)
class RunFolder:
    """Paths of a run."""

    path: Path

    @property
    def config(self) -> Path:
        """The configuration used, defaults included."""
        return self.path / "config.toml"

    @property
    def metrics(self) -> Path:
        """One JSON object per round."""
        return self.path / "metrics.jsonl"

    @property
    def checkpoints(self) -> Path:
        """One file per round."""
        return self.path / "checkpoints"


def default_path() -> Path:
    """Where a run goes whose folder nobody chose: named by the time, under `runs/`."""
    return Path("runs") / time.strftime("%Y%m%d-%H%M%S")


def create(path: Path, config: Config) -> RunFolder:
    """A new run folder.

    Raises:
        RunFolderError: the folder holds something already, or cannot be made.
    """
    folder = RunFolder(path)
    try:
        if folder.path.exists() and any(folder.path.iterdir()):
            hint = f"go on with --resume {folder.path}, or choose" if folder.config.exists() else "choose"
            raise RunFolderError(f"{folder.path} is not empty; {hint} another folder with --out")
        folder.checkpoints.mkdir(parents=True, exist_ok=True)
        write_atomically(folder.config, to_toml(config).encode())
    except OSError as error:
        raise RunFolderError(
            f"{folder.path} cannot be used: {error.strerror}; choose another with --out"
        ) from error
    return folder


def reopen(path: Path) -> tuple[RunFolder, Config, Checkpoint | None]:
    """A run folder to go on with: its configuration and its last finished round, None if not even round 0 is.

    Raises:
        RunFolderError: it is no run folder, or one of another version.
    """
    folder = RunFolder(path)
    if not folder.config.is_file():
        raise RunFolderError(
            f"{path} is no run folder (it has no config.toml); give the folder of an earlier run"
        )
    try:
        values = read_toml(folder.config)
        if values.get("format") != 1:
            raise RunFolderError(
                f"{path} was written by another version of pocketfed (format {values.get('format')!r}, this version "
                "reads 1); resume it with the version that began it"
            )
        config = build_config(values)
    except ConfigError as error:
        raise RunFolderError(f"{folder.config} is damaged: {'; '.join(error.problems)}") from error
    last = newest(folder.checkpoints)
    return folder, config, load_checkpoint(last) if last else None


def untrained(folder: RunFolder) -> Checkpoint:
    """Round 0."""
    return load_checkpoint(path_of(folder.checkpoints, 0))


def read_metrics(folder: RunFolder, up_to: int) -> list[Record]:
    """The records of rounds 0 to `up_to`, as far as a crash left whole lines: from the first damaged one on, none."""
    records = []
    lines = folder.metrics.read_bytes().splitlines() if folder.metrics.exists() else []
    for line in lines:
        try:
            record = json.loads(line)
            json.dumps(record, allow_nan=False)  # it will be written again
        except (ValueError, RecursionError):
            break
        if not isinstance(record, dict) or type(record.get("round")) is not int:
            break
        if record["round"] <= up_to:
            records.append(record)
    return records


def write_metrics(folder: RunFolder, records: list[Record]) -> None:
    """Replace all records."""
    write_atomically(
        folder.metrics, "".join(json.dumps(record, allow_nan=False) + "\n" for record in records).encode()
    )

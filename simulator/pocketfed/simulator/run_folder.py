"""The folder of a run: `config.toml`, `run-id`, `metrics.jsonl`, `checkpoints/`, `report.html`; `phones/` if they remember."""

import dataclasses
import json
import logging
import os
import re
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pocketfed.core.atomic import write_atomically
from pocketfed.core.errors import ConfigError, PluginError, RunFolderError
from pocketfed.server.checkpoint import Checkpoint, load_checkpoint, path_of, recover, set_aside
from pocketfed.server.outcome import Outcome
from pocketfed.simulator.config import Config
from pocketfed.simulator.config_file import build_config, overlay, read_toml, to_toml

Record = dict[str, Any]
"""One line of `metrics.jsonl`; docs/simulate.md lists its keys."""

SUFFIX = ".safetensors"
"""Of a checkpoint."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunFolder:
    """Paths of a run."""

    path: Path

    @property
    def config(self) -> Path:
        """The configuration used, defaults included."""
        return self.path / "config.toml"

    @property
    def id(self) -> Path:
        """What tells the run from any other one; see `read_id`."""
        return self.path / "run-id"

    @property
    def metrics(self) -> Path:
        """One JSON object per round."""
        return self.path / "metrics.jsonl"

    @property
    def checkpoints(self) -> Path:
        """One file per round."""
        return self.path / "checkpoints"

    @property
    def phones(self) -> Path:
        """What emulated phones remember, a folder each; there only if they have to."""
        return self.path / "phones"


def record_of(outcome: Outcome) -> Record:
    """What `metrics.jsonl` says of a round."""
    return {
        "round": outcome.round,
        "loss": {str(modality): round(loss, 6) for modality, loss in outcome.loss.items()},
        "phones": outcome.phones,
        "failures": outcome.failed,
        "failed": [dataclasses.asdict(failure) for failure in outcome.failures],
        "bytes_down": outcome.bytes_down,
        "bytes_up": outcome.bytes_up,
        "seconds": round(outcome.seconds, 3),
        "phases": {name: round(seconds, 3) for name, seconds in outcome.phases.items()},
        "attempt": outcome.attempt,
        **({"privacy": dataclasses.asdict(outcome.privacy)} if outcome.privacy else {}),
        "staleness": _staleness(outcome.staleness),
        **({"bundles": dict(outcome.bundles)} if outcome.bundles else {}),
    }


def _staleness(behind: Sequence[int]) -> dict[str, float]:
    return {"mean": round(sum(behind) / max(1, len(behind)), 3), "max": max(behind, default=0)}


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
    except OSError as error:
        raise RunFolderError(
            f"{folder.path} cannot be used: {error.strerror}; choose another with --out"
        ) from error
    begin(folder, config)
    return folder


def begin(folder: RunFolder, config: Config) -> None:
    """Make the folders and write the configuration, which says that there is a run; a new one gets its id before.

    Raises:
        RunFolderError: the folder cannot be made.
    """
    try:
        folder.checkpoints.mkdir(parents=True, exist_ok=True)
        if not folder.config.is_file():
            write_atomically(folder.id, f"{secrets.token_hex(16)}\n".encode())
        write_atomically(folder.config, to_toml(config).encode())
    except OSError as error:
        raise RunFolderError(
            f"{folder.path} cannot be used: {error.strerror}; choose another folder"
        ) from error


def find(path: Path) -> RunFolder:
    """The folder of a run that was begun.

    Raises:
        RunFolderError: it is none.
    """
    folder = RunFolder(path)
    if not os.path.isfile(folder.config):
        raise RunFolderError(
            f"{path} is no run folder (it has no config.toml); give the folder of an earlier run"
        )
    return folder


def reopen(
    path: Path,
    tell: Callable[[str], None] = log.warning,
    going_on: bool = False,
    plugins: Sequence[Path] = (),
) -> tuple[RunFolder, Config, Checkpoint | None]:
    """A run folder as it is: its configuration and its last finished round, None if not even round 0 is.

    Args:
        path: of the folder.
        tell: is told of damaged checkpoints, in place of which the one before is used.
        going_on: whether the run goes on from there; damaged checkpoints are then set aside.
        plugins: see `read_config`.

    Raises:
        RunFolderError: it is no run folder, or one of another version, or none of its checkpoints can be read.
    """
    folder = find(path)
    config = read_config(folder, plugins)
    last, damaged = recover(folder.checkpoints)
    for problem in set_aside(damaged) if going_on else damaged.values():
        tell(f"a checkpoint is damaged, the one before is used: {problem}")
    return folder, config, last


def read_config(folder: RunFolder, plugins: Sequence[Path] = ()) -> Config:
    """The configuration that a run was begun with.

    Args:
        folder: of the run.
        plugins: in place of those that it names, such as where these have moved; none keep them.

    Raises:
        RunFolderError: it is damaged, or of another version, or its plug-ins or the given ones cannot be used.
    """
    given = [str(path.resolve()) for path in plugins] or None
    try:
        values = read_toml(folder.config)
        if values.get("format") != 1:
            raise RunFolderError(
                f"{folder.path} was written by another version of pocketfed (format {values.get('format')!r}, this version "
                "reads 1); resume it with the version that began it"
            )
        return build_config(overlay(values, {"plugins": given}))
    except ConfigError as error:
        problems = "; ".join(error.problems)
        if given:
            said = f"cannot be used with the plug-ins that were given in place of its own: {problems}"
        elif isinstance(error, PluginError):
            said = f"cannot be used: {problems}; mend plugins there, or give pocketfed bundle the file with --plugin"
        else:
            said = f"is damaged: {problems}"
        raise RunFolderError(f"{folder.config} {said}") from error


def read_id(folder: RunFolder) -> str:
    """The id of a run: 32 random hex digits, the same from its beginning to its end, whoever goes on with it.

    Phones are sent it, and recall only what they remember of that run. No result depends on it.

    Raises:
        RunFolderError: it is lost or damaged.
    """
    try:
        found = folder.id.read_bytes()
    except OSError as error:
        raise _no_id(folder, error.strerror or "unreadable") from error
    if (match := re.fullmatch(rb"([0-9a-f]{32})\s*", found)) is None:
        raise _no_id(folder, "damaged")
    return match[1].decode()


def _no_id(folder: RunFolder, why: str) -> RunFolderError:
    return RunFolderError(
        f"{folder.id} cannot be read ({why}), and by it phones know the run of which they remember something; restore it "
        "from a copy, or begin a new run"
    )


def read_model(path: Path, plugins: Sequence[Path] = ()) -> tuple[Config, Checkpoint | None]:
    """The configuration and the weights that a path names: a run folder, its newest; a checkpoint in one, that very one.

    Args:
        path: of either.
        plugins: see `read_config`.

    Raises:
        RunFolderError: it is neither, or cannot be read.
    """
    if path.suffix == SUFFIX:
        checkpoint = load_checkpoint(path)
        return read_config(find(path.parent.parent), plugins), checkpoint
    _, config, last = reopen(path, plugins=plugins)
    return config, last


def untrained(folder: RunFolder) -> Checkpoint:
    """Round 0."""
    return load_checkpoint(path_of(folder.checkpoints, 0))


def read_metrics(folder: RunFolder, up_to: int) -> list[Record]:
    """The records of rounds 0 to `up_to`, as far as a crash left whole lines: from the first damaged one on, none."""
    return [record for record, _ in whole_records(folder) if record["round"] <= up_to]


def whole_records(folder: RunFolder) -> Iterator[tuple[Record, int]]:
    """The records before the first damaged line, each with the size of the file, in bytes, to the end of its line."""
    if not folder.metrics.exists():
        return
    end = 0
    with folder.metrics.open("rb") as file:
        for line in file:
            end += len(line)
            record = _record(line)
            if record is None:
                return
            yield record, end


def _record(line: bytes) -> Record | None:
    """A line as it was written, None if it is damaged, or torn: without its end it may be another number."""
    if not line.endswith(b"\n"):
        return None
    try:
        record = json.loads(line)
        json.dumps(record, allow_nan=False)  # reports and pages show it
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) and type(record.get("round")) is int else None

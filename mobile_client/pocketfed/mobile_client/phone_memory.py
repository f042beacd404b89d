"""What a phone remembers from one round to the next: named vectors, on disk, in a folder of its own.

    round-00007.safetensors, round-00012.safetensors

The last two rounds that it trained in are kept. A server that was stopped repeats the round that was running, and then a
phone that has trained in it already goes by what it remembered before: its answer is the same again. A server that lost
more goes back further than that; then what a phone can only have from its memory is taken from a later round.
"""

import hashlib
import json
import logging
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from pocketfed.core.atomic import write_atomically

Vectors = Mapping[str, NDArray[np.float32]]
"""By name, float32, one-dimensional."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PhoneMemory:
    """The memory of one phone. Nothing is on disk before something is kept.

    Attributes:
        folder: only this phone's.
    """

    folder: Path

    def recall(self, run: str, before: int) -> Vectors:
        """What was kept in the newest round before this one; nothing if there is none.

        Args:
            run: what was kept for another one is not recalled.
            before: number of a round.
        """
        for number in sorted((n for n in self._rounds() if n < before), reverse=True):
            if found := self._try(number, run):
                return found
        return {}

    def go_back(self, run: str, to: int, names: Collection[str]) -> Vectors:
        """For a round of which nothing is recalled: the oldest of what was kept in it and after it.

        It is written down as what was kept before that round, so that the round gives the same if it is asked for again.
        A phone's first round that is only repeated is none to go back to: nothing was kept before it.

        Args:
            run: as in `recall`.
            to: number of the round.
            names: of the vectors that count; the others follow a model that the server has no more.

        Returns:
            Those vectors; none if nothing of the run is known after this round.

        Raises:
            OSError: the disk is full, or cannot be written.
        """
        known = {n: found for n in self._rounds() if n >= to and (found := self._try(n, run))}
        if not any(number > to for number in known):
            return {}
        oldest = min(known)
        kept = {name: vector for name, vector in known[oldest].items() if name in names}
        if kept:
            log.warning(
                "the server went back to round %d, before which nothing is remembered; %s is as it was after round %d",
                to, ", ".join(sorted(kept)), oldest,
            )  # fmt: skip
            self._write(run, to - 1, kept)
        return kept

    def keep(self, run: str, round_number: int, vectors: Vectors) -> None:
        """Remember these in place of what was kept in this round, and forget all but the newest round before it.

        Raises:
            OSError: the disk is full, or cannot be written.
        """
        self._write(run, round_number, vectors)
        earlier = [number for number in self._rounds() if number < round_number]
        for number in self._rounds():
            if number != round_number and number != max(earlier, default=None):
                self._path(number).unlink(missing_ok=True)
        for leftover in self.folder.glob(".round-*"):  # of a process that was killed while it wrote
            leftover.unlink(missing_ok=True)

    def _write(self, run: str, round_number: int, vectors: Vectors) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        tensors = {name: np.ascontiguousarray(vector) for name, vector in vectors.items()}
        metadata = {"run": run, "sha256": _digest(run, tensors)}
        write_atomically(self._path(round_number), save(tensors, metadata=metadata))

    def _try(self, round_number: int, run: str) -> Vectors:
        """What was kept in a round; nothing, and a warning, if that is damaged or of another run."""
        try:
            return _read(self._path(round_number), run)
        except (OSError, SafetensorError, ValueError) as error:
            log.warning("%s is not used: %s", self._path(round_number), error)
            return {}

    def _rounds(self) -> list[int]:
        names = (re.fullmatch(r"round-(\d+)", path.stem) for path in self.folder.glob("round-*.safetensors"))
        return [int(name[1]) for name in names if name]

    def _path(self, round_number: int) -> Path:
        return self.folder / f"round-{round_number:05d}.safetensors"


def _read(path: Path, run: str) -> Vectors:
    """What `keep` wrote.

    Raises:
        OSError, SafetensorError, ValueError: it is damaged, or of another run.
    """
    with safe_open(path, framework="numpy") as file:
        metadata, tensors = file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if metadata.get("run") != run:
        raise ValueError("it belongs to another run")
    if metadata.get("sha256") != _digest(run, tensors):
        raise ValueError("its hash is wrong")
    return tensors


def _digest(run: str, tensors: Vectors) -> str:
    digest = hashlib.sha256(json.dumps([run, *sorted(tensors)]).encode())
    for name in sorted(tensors):
        digest.update(tensors[name].tobytes())
    return digest.hexdigest()

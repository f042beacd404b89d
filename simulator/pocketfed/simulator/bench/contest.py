"""One measurement: a program's method against eager PyTorch, in a process of its own."""

import json
from dataclasses import asdict, dataclass
from typing import Literal

Kind = Literal["method", "inference", "peer"]


@dataclass(frozen=True)
class Contest:
    """What a child process is to measure. All paths are relative to the work folder.

    Attributes:
        kind: a method whose weights are an input, an inference program with weights inside, or a peer's training.
        label: for the reader.
        method: of the program.
        program: file name of the program.
        batch: captures per call.
        threads: of both contestants.
        rounds: counted turns.
        peer: name of the peer, for its kind.
    """

    kind: Kind
    label: str
    method: str
    program: str
    batch: int
    threads: int
    rounds: int
    peer: str = ""

    def to_json(self) -> str:
        """For the child's command line."""
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> "Contest":
        """The inverse of `to_json`."""
        return Contest(**json.loads(text))

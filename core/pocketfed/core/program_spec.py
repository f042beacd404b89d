"""What a phone must know of a program to call it: sizes and names, nothing of the network."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pocketfed.core.learning_step import step_name
from pocketfed.core.learning_task import LearningTask
from pocketfed.core.modality import Modality
from pocketfed.core.parsing import whole


@dataclass(frozen=True)
class Input:
    """Captures of one modality as a program takes them.

    Attributes:
        shape: of one capture.
        dtype: `uint8` for photos, `float32` for sounds.
        noise: uniform random numbers per view.
    """

    shape: tuple[int, ...]
    dtype: str
    noise: int


@dataclass(frozen=True)
class ProgramSpec:
    """Sizes of a program's inputs.

    Attributes:
        weights: scalars in the flat weight vector.
        state: scalars in the optimiser's state vector.
        batch: captures per step.
        inputs: by modality.
        mixed: whether the program has a step for batches of mixed modalities.
        layout: digest of the layout of the weights; weights of another layout must not be put in.
    """

    weights: int
    state: int
    batch: int
    inputs: Mapping[Modality, Input]
    mixed: bool
    layout: str

    def step(self, modalities: Sequence[Modality]) -> tuple[str, int]:
        """The method for a batch of these modalities, and how many captures of each it takes."""
        return step_name(modalities), self.batch // len(modalities)


def program_spec(task: LearningTask, mixed: bool) -> ProgramSpec:
    """The spec of the program that `methods(task, mixed)` becomes."""
    inputs = {
        modality: Input(
            view.capture_shape, "uint8" if modality is Modality.PHOTO else "float32", len(view.noise)
        )
        for modality, view in task.views.items()
    }
    return ProgramSpec(
        weights=task.layout.size,
        state=task.state_size,
        batch=task.batch,
        inputs=inputs,
        mixed=mixed and len(inputs) > 1,
        layout=task.layout.digest,
    )


def read_spec(values: Mapping[str, Any]) -> ProgramSpec:
    """What `asdict` makes of a spec, also after it was JSON.

    Raises:
        KeyError, TypeError, ValueError, AttributeError: it is none.
    """
    inputs = {
        Modality(name): Input(
            tuple(_size(length) for length in wanted["shape"]),
            _dtype(wanted["dtype"]),
            _size(wanted["noise"]),
        )
        for name, wanted in values["inputs"].items()
    }
    return ProgramSpec(
        weights=_size(values["weights"]),
        state=_size(values["state"]),
        batch=_size(values["batch"]),
        inputs=inputs,
        mixed=bool(values["mixed"]),
        layout=str(values["layout"]),
    )


def _size(value: Any) -> int:
    return whole(value, "size")


def _dtype(value: Any) -> str:
    if value not in ("uint8", "float32"):
        raise ValueError(f"{value!r} is no type of captures")
    return str(value)

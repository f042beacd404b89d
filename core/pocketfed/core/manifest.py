"""What a bundle's manifest says of the learning step, so that an app in any language can call it.

"captures"   raw captures as every program takes them: shape, dtype, unit, sample rate
"noise"      the uniform random numbers that each view of a capture takes, by what they decide
"hyper"      the names of the last input's entries, in order
"programs"   by file: the runtime, and of each method inputs and outputs in order
"""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from pocketfed.core.captures.captures import SAMPLE_RATE
from pocketfed.core.hyper import HYPER
from pocketfed.core.learning_step import Method
from pocketfed.core.learning_task import LearningTask
from pocketfed.core.modality import Modality

UNITS = {Modality.PHOTO: "sRGB, 0 to 255", Modality.SOUND: "PCM, -1 to 1"}


def about_task(task: LearningTask, objective: str = "nt-xent") -> dict[str, Any]:
    """What holds for all programs of a task; JSON values."""
    return {
        "backbone": task.backbone,
        "features": task.encoder.projector.first.in_features,
        "objective": objective,
        "optimiser": task.optimiser.name,
        "captures": {str(modality): _captures(task, modality) for modality in task.views},
        "noise": {str(modality): list(view.noise) for modality, view in task.views.items()},
        "hyper": [*HYPER, "captures that count, of each modality of the batch"],
    }


def describe_method(method: Method, outputs: Sequence[str]) -> dict[str, Any]:
    """Inputs and outputs of a method of a program, in order; JSON values."""
    found = method.function(*method.example)
    return {
        "inputs": [_tensor(name, value) for name, value in zip(_inputs(method), method.example, strict=True)],
        "outputs": [_tensor(name, value) for name, value in zip(outputs, found, strict=True)],
    }


def describe_step(method: Method) -> dict[str, Any]:
    """A learning step's."""
    return describe_method(method, ("loss", "new weights", "new state"))


def describe_embedding(method: Method) -> dict[str, Any]:
    """An embedding's."""
    return describe_method(method, ("features",))


def _inputs(method: Method) -> list[str]:
    kind, _, what = method.name.partition("_")
    if kind == "embed":
        return ["weights", f"{what} captures"]
    modalities = [what] if what != "mixed" else [str(modality) for modality in Modality]
    batches = [name for modality in modalities for name in (f"{modality} captures", f"{modality} noise")]
    return ["weights", "state", "weights that the round began with", *batches, "hyper"]


def _captures(task: LearningTask, modality: Modality) -> Mapping[str, Any]:
    described: dict[str, Any] = {
        "shape": list(task.views[modality].capture_shape),
        "dtype": "uint8" if modality is Modality.PHOTO else "float32",
        "unit": UNITS[modality],
    }
    if modality is Modality.PHOTO:
        return {**described, "order": "height, width, channel"}
    return {**described, "sample_rate": SAMPLE_RATE}


def _tensor(name: str, value: Tensor) -> dict[str, Any]:
    return {"name": name, "shape": list(value.shape), "dtype": str(value.dtype).removeprefix("torch.")}

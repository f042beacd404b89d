"""What a bundle's manifest says of the learning step, so that an app in any language can call it.

"captures"   raw captures as every program takes them: shape, dtype, unit, sample rate, how to prepare them
"noise"      the random numbers that each of the two views of a capture takes: their distribution, and what each decides
"hyper"      the numbers that a step is told, in order, each with the configuration's value and its range
"programs"   by file: the runtime and its least version, and of each method inputs and outputs in order, with their units
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from pocketfed.core.captures.captures import SAMPLE_RATE
from pocketfed.core.hyper import HYPER, RANGES, Hyper
from pocketfed.core.learning_step import OBJECTIVE, Method, embed_method, methods
from pocketfed.core.learning_task import LearningTask
from pocketfed.core.modality import Modality

UNITS = {Modality.PHOTO: "sRGB, 0 to 255", Modality.SOUND: "PCM, -1 to 1"}

PREPARE = {
    Modality.PHOTO: "turn upright, crop the largest square from the centre, resize with bicubic antialiasing",
    Modality.SOUND: "mean of the channels, resample, cut into windows of this length",
}
"""What `core.captures.decode` does to files, for apps that do the same to what a camera or a microphone gives."""

WEIGHTS = "the flat vector of layout.json"

FEATURES = "of the backbone, not normalised"

UNIFORM = "uniform in [0, 1)"

STATE = "of the optimiser; zeros when a round begins"

LOSS = "nats, the mean over the views"


def about_task(task: LearningTask, hyper: Hyper) -> dict[str, Any]:
    """What holds for all programs of a task, whose steps are told `hyper` unless something else is wanted; JSON values."""
    return {
        "backbone": task.backbone,
        "features": feature_width(task),
        "objective": OBJECTIVE,
        "optimiser": task.optimiser.name,
        "captures": {str(modality): _captures(task, modality) for modality in task.views},
        "noise": {
            str(modality): {
                "distribution": UNIFORM,
                "axes": "capture, view, number",
                "names": list(view.noise),
            }
            for modality, view in task.views.items()
        },
        "hyper": [
            {"name": name, "default": default, "range": RANGES[name]}
            for name, default in dataclasses.asdict(hyper).items()
        ],
    }


def feature_width(task: LearningTask) -> int:
    """Numbers in an embedding."""
    width: int = task.encoder.projector.first.in_features
    return width


def describe_training(task: LearningTask, mixed: bool) -> dict[str, Any]:
    """Methods of `train.pte`, by name; JSON values."""
    return {
        method.name: (describe_step if method.name.startswith("step") else describe_embedding)(method)
        for method in methods(task, mixed)
    }


def describe_inference(
    task: LearningTask, modality: Modality, batch: int, scores: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Inputs and outputs of a program that has its weights inside; JSON values.

    Args:
        task: whose view and encoder.
        modality: of the captures.
        batch: that it takes.
        scores: how the output is described, if that is no features.
    """
    described = describe_embedding(embed_method(task, modality))
    inputs, outputs = described["inputs"][1:], described["outputs"] if scores is None else [dict(scores)]
    for value in (*inputs, *outputs):
        value["shape"][0] = batch
    return {"inputs": inputs, "outputs": outputs}


def describe_step(method: Method) -> dict[str, Any]:
    """Inputs and outputs of a learning step, in order; JSON values."""
    what = method.name.partition("_")[2]
    modalities = [Modality(what)] if what != "mixed" else list(Modality)
    inputs = {"weights": WEIGHTS, "state": STATE, "weights that the round began with": WEIGHTS}
    for modality in modalities:
        inputs |= {f"{modality} captures": UNITS[modality], f"{modality} noise": UNIFORM}
    names = hyper_names(modalities)
    outputs = {"loss": LOSS, "new weights": WEIGHTS, "new state": STATE}
    return _describe(method, {**inputs, "hyper": "by names"}, outputs, hyper=names)


def describe_embedding(method: Method) -> dict[str, Any]:
    """Inputs and outputs of an embedding, in order; JSON values."""
    modality = Modality(method.name.partition("_")[2])
    inputs = {"weights": WEIGHTS, f"{modality} captures": UNITS[modality]}
    return _describe(method, inputs, {"features": FEATURES})


def hyper_names(modalities: Sequence[Modality]) -> list[str]:
    """What the entries of a step's `hyper` are: how many captures of each batch count comes last."""
    return [*HYPER, *(f"{modality} captures that count" for modality in modalities)]


def describe_tensor(name: str, shape: Sequence[int], dtype: str, unit: str) -> dict[str, Any]:
    """One input or output; JSON values."""
    return {"name": name, "shape": list(shape), "dtype": dtype, "unit": unit}


def _describe(
    method: Method, inputs: Mapping[str, str], outputs: Mapping[str, str], hyper: Sequence[str] = ()
) -> dict[str, Any]:
    """Of units by name, in order."""
    sides = {
        "inputs": (inputs, method.example),
        "outputs": (outputs, method.function(*method.example)),
    }
    described = {
        side: [
            describe_tensor(name, value.shape, str(value.dtype).removeprefix("torch."), unit)
            for (name, unit), value in zip(units.items(), values, strict=True)
        ]
        for side, (units, values) in sides.items()
    }
    if hyper:
        described["inputs"][-1]["names"] = list(hyper)
    return described


def _captures(task: LearningTask, modality: Modality) -> Mapping[str, Any]:
    described: dict[str, Any] = {
        "shape": list(task.views[modality].capture_shape),
        "dtype": "uint8" if modality is Modality.PHOTO else "float32",
        "unit": UNITS[modality],
    }
    if modality is Modality.PHOTO:
        return {**described, "order": "height, width, channel", "prepare": PREPARE[modality]}
    return {**described, "sample_rate": SAMPLE_RATE, "channels": 1, "prepare": PREPARE[modality]}

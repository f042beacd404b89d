"""Whether the programs of a bundle do what eager PyTorch does with the same weights."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pocketfed.core.bundle import PROGRAM, Bundle
from pocketfed.core.captures import embedded_photos, embedded_sounds
from pocketfed.core.errors import BundleError, PocketfedError
from pocketfed.core.head import read_head
from pocketfed.core.learning_step import Method, embedding, methods
from pocketfed.core.learning_task import LearningTask
from pocketfed.core.modality import Modality
from pocketfed.core.randomness import generator
from pocketfed.export.bound import bound_head
from pocketfed.export.coreml.embedding import CAPTURES
from pocketfed.export.mil import Precision, execute, read_package
from pocketfed.mobile_client.runtime import ExecutorchRuntime
from pocketfed.simulator.bundles import config_of
from pocketfed.simulator.config import Config
from pocketfed.simulator.program import task_of

CAPTURES_EACH = 64
"""Captures of each modality that programs are compared on."""

BOUNDS = {
    "float32": 1e-4,
    "int8": 0.5,
    "exact": 5e-3,  # the weights are stored in half precision
    "declared": 3e-2,
}
"""Largest error that is accepted, as a share of the largest magnitude, by precision."""


@dataclass(frozen=True)
class Parity:
    """How far a program is from eager PyTorch.

    Attributes:
        program: its file.
        what: the method or function, and what of it.
        precision: a key of `BOUNDS`.
        error: the largest, as a share of the largest magnitude.
    """

    program: str
    what: str
    precision: str
    error: float

    @property
    def agrees(self) -> bool:
        """Whether the error is accepted."""
        return self.error <= BOUNDS[self.precision]


def verify_programs(bundle: Bundle, tell: Callable[[str], None]) -> Iterator[Parity]:
    """Run every program of a bundle and compare.

    Args:
        bundle: whole, as `read_bundle` has checked.
        tell: is told of each program before it runs.

    Raises:
        BundleError: the manifest names a program of a kind that is not known here, or one cannot be run.
    """
    config = config_of(bundle)
    task = task_of(config, list(bundle.spec.inputs))
    if task.layout.digest != bundle.spec.layout:
        raise BundleError(
            f"{bundle.folder} holds another {task.backbone} than this version builds; use the version that made it"
        )
    captures = {modality: _captures(task, modality) for modality in task.views}
    for name, about in bundle.manifest.get("programs", {PROGRAM: {"runtime": "executorch"}}).items():
        tell(name)
        try:
            yield from _verify(bundle, config, task, captures, str(name), about)
        except BundleError:
            raise
        except (PocketfedError, KeyError, TypeError, ValueError) as error:
            raise BundleError(
                f"{bundle.folder / name} does not run ({error}); make the bundle anew"
            ) from error


def _verify(
    bundle: Bundle, config: Config, task: LearningTask, captures: Mapping[Modality, NDArray[Any]],
    name: str, about: Mapping[str, Any],
) -> Iterator[Parity]:  # fmt: skip
    if about["runtime"] == "coreml":
        yield from _core_ml(bundle, task, captures, name, about)
    elif about["runtime"] != "executorch":
        raise BundleError(f"{name} is for {about['runtime']!r}, which is not known here; use a newer version")
    elif name == PROGRAM:
        yield from _training(bundle, task, captures, config.learning.mode == "mixed")
    else:
        yield from _inference(bundle, task, captures, name, about)


def _training(
    bundle: Bundle, task: LearningTask, captures: Mapping[Modality, NDArray[Any]], mixed: bool
) -> Iterator[Parity]:
    runtime = ExecutorchRuntime(bundle.program)
    for method in methods(task, mixed):
        inputs = _inputs(bundle, method, captures)
        found = runtime.run(method.name, [value.numpy() for value in inputs])
        wanted = method.function(*inputs)
        names = ("loss", "weights", "state") if method.name.startswith("step") else ("features",)
        for name, a, b in zip(names, found, wanted, strict=True):
            yield Parity(PROGRAM, f"{method.name}, {name}", "float32", _distance(torch.as_tensor(a), b))


def _inference(
    bundle: Bundle, task: LearningTask, captures: Mapping[Modality, NDArray[Any]], file: str, about: Mapping[str, Any]
) -> Iterator[Parity]:  # fmt: skip
    runtime = ExecutorchRuntime((bundle.folder / file).read_bytes())
    for name, described in about["methods"].items():
        kind, _, named = name.partition("_")
        modality = Modality(named)
        batch = int(described["inputs"][0]["shape"][0])
        rows = captures[modality][: CAPTURES_EACH // batch * batch]
        found = np.concatenate([runtime.run(name, [part])[0] for part in np.split(rows, len(rows) // batch)])
        wanted = _eager(bundle, task, modality, torch.from_numpy(rows), classify=kind == "classify")
        yield Parity(file, name, about["precision"], _distance(torch.from_numpy(found), wanted))


def _core_ml(
    bundle: Bundle, task: LearningTask, captures: Mapping[Modality, NDArray[Any]], file: str, about: Mapping[str, Any]
) -> Iterator[Parity]:  # fmt: skip
    program = read_package(bundle.folder / file)
    (output,), stem = about["outputs"], Path(file).stem
    classify = stem.startswith("Classify")
    modality = Modality(stem.removeprefix("Classify" if classify else "Embed").lower())
    for batch in about["batches"]:
        rows = torch.from_numpy(captures[modality][:batch])
        given = rows.permute(0, 3, 1, 2).float() if modality is Modality.PHOTO else rows
        wanted = _eager(bundle, task, modality, rows, classify)
        for precision in Precision:
            found = execute(program, {CAPTURES: given}, precision)[output["name"]]
            yield Parity(file, f"batch of {batch}", str(precision), _distance(found, wanted))


def _inputs(bundle: Bundle, method: Method, captures: Mapping[Modality, NDArray[Any]]) -> list[Tensor]:
    """Real weights and captures, random numbers for noise, the usual hyperparameters."""
    rng = generator(0, method.name)
    weights = torch.from_numpy(bundle.weights.copy())
    inputs = []
    for position, blank in enumerate(method.example):
        if blank.shape == weights.shape and position != 1:
            inputs.append(weights.clone())
            continue
        modality = next((m for m, items in captures.items() if blank.shape[1:] == items.shape[1:]), None)
        if modality is not None and blank.dim() > 1:
            inputs.append(torch.from_numpy(captures[modality][: len(blank)].copy()))
        elif blank.dim() == 3:
            inputs.append(torch.from_numpy(rng.random(tuple(blank.shape), dtype=np.float32)))
        else:
            inputs.append(blank)
    return inputs


def _captures(task: LearningTask, modality: Modality) -> NDArray[Any]:
    """Drawn or synthesised, the same each time."""
    shape = task.views[modality].capture_shape
    count = 2 * max(CAPTURES_EACH, task.batch)
    if modality is Modality.PHOTO:
        return np.asarray(embedded_photos(count, shape[0], 0).train.items)
    return np.asarray(embedded_sounds(count, shape[0] / 16_000, 0).train.items)


def _eager(
    bundle: Bundle, task: LearningTask, modality: Modality, captures: Tensor, classify: bool = False
) -> Tensor:
    """Features by PyTorch, or class scores by the head that the manifest names."""
    head = read_head(bundle.folder / bundle.manifest["classifiers"][modality]["head"]) if classify else None
    with torch.no_grad():
        features = embedding(task, modality)(torch.from_numpy(bundle.weights.copy()), captures)[0]
        scores: Tensor = bound_head(head)(features)
    return scores


def _distance(found: Tensor, wanted: Tensor) -> float:
    """The largest difference, as a share of the largest magnitude."""
    return float((found - wanted).abs().max() / wanted.abs().max().clamp(min=1e-12))

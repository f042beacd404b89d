"""Whether the programs of a bundle do what eager PyTorch does with the same weights."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pocketfed.core.bundle import PROGRAM, Bundle
from pocketfed.core.captures import embedded_photos, embedded_sounds
from pocketfed.core.errors import BundleError, PocketfedError
from pocketfed.core.learning_step import methods
from pocketfed.core.learning_task import LearningTask
from pocketfed.core.modality import Modality
from pocketfed.core.runtime_version import check_runtime
from pocketfed.export.inspection import inspect_program
from pocketfed.mobile_client.runtime import ExecutorchRuntime, runtime_version
from pocketfed.simulator.bundles import config_of
from pocketfed.simulator.config import Config
from pocketfed.simulator.coreml_verification import verify_core_ml
from pocketfed.simulator.parity import (
    BOUNDS,
    CAPTURES_EACH,
    Parity,
    compare_step,
    distance,
    embedded,
    in_batches,
    lost_of,
    real_inputs,
)
from pocketfed.simulator.program import task_of


def verify_programs(bundle: Bundle, tell: Callable[[str], None]) -> Iterator[Parity]:
    """Run every program of a bundle and compare.

    Args:
        bundle: whole, as `read_bundle` has checked.
        tell: is told of each program before it runs.

    Raises:
        BundleError: the runtime here is older than what the bundle was made with, the manifest names a program of a kind
            or precision that is not known here, or other methods than a program has, or one cannot be run, or nothing
            of it would be.
    """
    check_runtime(bundle.manifest, runtime_version(), bundle.folder)
    config = config_of(bundle)
    task = task_of(config, list(bundle.spec.inputs))
    if task.layout.digest != bundle.spec.layout:
        raise BundleError(
            f"{bundle.folder} holds another {task.backbone} than this version builds; use the version that made it"
        )
    captures = {modality: _captures(task, modality) for modality in task.views}
    for name, about in _programs(bundle).items():
        tell(name)
        path = bundle.folder / name
        try:
            rows = list(_verify(bundle, config, task, captures, str(name), about))
            unknown = [row.precision for row in rows if row.precision not in BOUNDS]
        except BundleError:
            raise
        except (
            PocketfedError, LookupError, ArithmeticError, AttributeError, TypeError, ValueError
        ) as error:  # fmt: skip
            raise BundleError(f"{path} does not run ({error}); make the bundle anew") from error
        if unknown:
            raise BundleError(
                f"{path} has the precision {unknown[0]!r}, which is not known here; use a newer version"
            )
        if not rows:
            raise BundleError(
                f"nothing of {path} would be run, since the manifest names no method or size of batches of it; make the "
                "bundle anew"
            )
        yield from rows


def _programs(bundle: Bundle) -> Mapping[str, Any]:
    """What the manifest says of each program; the bundle of a simulation has the one.

    Raises:
        BundleError: it leaves out a program that is among the files. That it has none besides, `read_bundle` has checked.
    """
    stated: Mapping[str, Any] = bundle.manifest.get("programs", {PROGRAM: {"runtime": "executorch"}})
    places = {
        str(place) for file in map(PurePosixPath, bundle.release.files) for place in (file, *file.parents)
    }
    there = {place for place in places if place.endswith((".pte", ".mlpackage"))}
    if there - stated.keys():
        other = ", ".join(sorted(there - stated.keys()))
        raise BundleError(
            f"the manifest of {bundle.folder} has other programs than its files are ({other}); make the bundle anew"
        )
    return stated


def _verify(
    bundle: Bundle, config: Config, task: LearningTask, captures: Mapping[Modality, NDArray[Any]],
    name: str, about: Mapping[str, Any],
) -> Iterator[Parity]:  # fmt: skip
    mixed = config.learning.mode == "mixed"
    if about["runtime"] == "executorch":
        _check_methods(bundle.folder / name, task, mixed, about)
    if about["runtime"] == "coreml" or about.get("backend") == "coreml":
        yield from verify_core_ml(bundle, task, captures, name, about)
    elif about["runtime"] != "executorch":
        raise BundleError(f"{name} is for {about['runtime']!r}, which is not known here; use a newer version")
    elif name == PROGRAM:
        yield from _training(bundle, task, captures, mixed)
    else:
        yield from _inference(bundle, task, captures, name, about)


def _check_methods(file: Path, task: LearningTask, mixed: bool, about: Mapping[str, Any]) -> None:
    """Nothing, if a program has just the methods that will be compared.

    Raises:
        BundleError: it has others.
    """
    wanted: dict[str, set[str]] = {}
    # The manifest of a simulation's bundle says nothing of them.
    if file.name != PROGRAM or "methods" in about:
        wanted["the manifest names"] = set(about["methods"])
    if file.name == PROGRAM:
        wanted["its configuration asks for"] = {method.name for method in methods(task, mixed)}
    own = set(inspect_program(file.read_bytes()))
    for who, names in wanted.items():
        if names != own:
            raise BundleError(
                f"{file} has the methods {_listed(own)}, but {who} {_listed(names)}; make the bundle anew"
            )


def _listed(names: set[str]) -> str:
    return ", ".join(sorted(names)) or "none"


def _training(
    bundle: Bundle, task: LearningTask, captures: Mapping[Modality, NDArray[Any]], mixed: bool
) -> Iterator[Parity]:
    runtime = ExecutorchRuntime(bundle.program)
    for method in methods(task, mixed):
        inputs = real_inputs(bundle.weights, method, captures)
        results = runtime.run(method.name, [value.numpy() for value in inputs])
        names = ("loss", "weights", "state") if method.name.startswith("step") else ("features",)
        found = {
            f"{method.name}, {name}": torch.as_tensor(result)
            for name, result in zip(names, results, strict=True)
        }
        yield from compare_step(PROGRAM, method, inputs, found)


def _inference(
    bundle: Bundle, task: LearningTask, captures: Mapping[Modality, NDArray[Any]], file: str, about: Mapping[str, Any]
) -> Iterator[Parity]:  # fmt: skip
    runtime = ExecutorchRuntime((bundle.folder / file).read_bytes())
    for name, described in about["methods"].items():
        kind, _, named = name.partition("_")
        modality = Modality(named)
        batch = int(described["inputs"][0]["shape"][0])
        rows = captures[modality][:CAPTURES_EACH]
        wanted = embedded(bundle, task, modality, torch.from_numpy(rows), classify=kind == "classify")

        def run(part: NDArray[Any], method: str = name) -> torch.Tensor:
            return torch.from_numpy(runtime.run(method, [part])[0])

        found, right = in_batches(run, rows, batch, wanted)
        yield Parity(file, name, about["precision"], distance(found, right), lost=lost_of(found, right))


def _captures(task: LearningTask, modality: Modality) -> NDArray[Any]:
    """Drawn or synthesised, the same each time."""
    shape = task.views[modality].capture_shape
    count = 2 * max(CAPTURES_EACH, task.batch)
    if modality is Modality.PHOTO:
        return np.asarray(embedded_photos(count, shape[0], 0).train.items)
    return np.asarray(embedded_sounds(count, shape[0] / 16_000, 0).train.items)

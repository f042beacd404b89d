"""Whether the programs of a bundle do what eager PyTorch does with the same weights."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pocketfed.core.bundle import Bundle
from pocketfed.core.captures import embedded_photos, embedded_sounds
from pocketfed.core.errors import BundleError
from pocketfed.core.learning_step import methods
from pocketfed.core.learning_task import LearningTask
from pocketfed.core.modality import Modality
from pocketfed.core.release import MANIFEST, NEEDED, PROGRAM
from pocketfed.core.runtime_version import check_runtime
from pocketfed.export.inspection import inspect_program
from pocketfed.mobile_client.runtime import ExecutorchRuntime, runtime_version
from pocketfed.simulator.blaming import blaming
from pocketfed.simulator.bundles import config_of
from pocketfed.simulator.config import Config
from pocketfed.simulator.coreml_verification import verify_core_ml
from pocketfed.simulator.manifest_check import check_entry, check_manifest
from pocketfed.simulator.parity import (
    BOUNDS,
    CAPTURES_EACH,
    MOST_LOST,
    Parity,
    distance,
    embedded,
    in_batches,
    lost_of,
)
from pocketfed.simulator.program import task_of
from pocketfed.simulator.step_parity import compare_step, drawn_batch, elsewhere

PACKAGED = (".json", ".mlmodel", ".bin")
"""How files of a Core ML package end."""


def verify_programs(bundle: Bundle, tell: Callable[[str], None]) -> Iterator[Parity]:
    """Run every program of a bundle and compare.

    Args:
        bundle: whole, as `read_bundle` has checked.
        tell: is told of each program before it runs.

    Raises:
        BundleError: the runtime here is older than what the bundle was made with, the manifest says other things of it or
            of a program than follow from its configuration, a program has other methods, or one cannot be run.
    """
    check_runtime(bundle.manifest, runtime_version(), bundle.folder)
    config = config_of(bundle)
    task = task_of(config, list(bundle.spec.inputs))
    if task.layout.digest != bundle.spec.layout:
        raise BundleError(
            f"{bundle.folder} holds another {task.backbone} than this version builds; use the version that made it"
        )
    with blaming(f"{bundle.folder / MANIFEST} cannot be read as this version does"):
        check_manifest(bundle, config, task)
    programs = _programs(bundle)
    for name, about in programs.items():  # before any of them is run, which takes long
        with blaming(f"{bundle.folder / name} does not run"):
            _check_described(bundle, config, task, name, about)
    captures = {modality: _captures(task, modality) for modality in task.views}
    for name, about in programs.items():
        tell(name)
        path = bundle.folder / name
        with blaming(f"{path} does not run"):
            rows = list(_verify(bundle, config, task, captures, str(name), about))
        yield from rows


def useless_int8(bundle: Bundle, task: LearningTask) -> Iterator[str]:
    """A sentence for each int8 program of a bundle just made that `verify_programs` would find to disagree.

    It is not the program's fault: features that differ from capture to capture by less than 8 bits of their magnitude
    can say, as those of many an untrained network do, are the same to int8.
    """
    captures = {modality: _captures(task, modality) for modality in task.views}
    for name, about in bundle.manifest["programs"].items():
        if about["runtime"] != "executorch" or about["precision"] != "int8":
            continue
        for row in _inference(bundle, task, captures, name, about):
            if not row.agrees:
                yield (
                    f"{name} is of no use with these weights: {row.lost:.0%} of what tells captures apart is lost (verify "
                    f"accepts {MOST_LOST:.0%}), and its largest error is {row.error:.0%} (verify accepts "
                    f"{BOUNDS[row.precision]:.0%}); bundle weights that have learnt more (--from RUN), or leave int8 out "
                    "(--no-int8)"
                )


def _programs(bundle: Bundle) -> Mapping[str, Any]:
    """What the manifest says of each program; the bundle of a simulation has the one.

    Raises:
        BundleError: among the files is something that is no program of these, no head, and nothing that every bundle has.
    """
    stated: Mapping[str, Any] = bundle.manifest.get("programs", {PROGRAM: {"runtime": "executorch"}})
    known = {*NEEDED, *stated, *(about["head"] for about in bundle.manifest.get("classifiers", {}).values())}
    unknown = set()
    for name in bundle.release.files:
        top = PurePosixPath(name).parts[0]
        if name not in known and not (top in stated and name.endswith(PACKAGED)):
            unknown.add(name if top in known else top)
    if unknown:
        raise BundleError(
            f"{bundle.folder} has files that are no part of it by its manifest ({', '.join(sorted(unknown))}); make the bundle "
            "anew"
        )
    return stated


def _verify(
    bundle: Bundle, config: Config, task: LearningTask, captures: Mapping[Modality, NDArray[Any]],
    name: str, about: Mapping[str, Any],
) -> Iterator[Parity]:  # fmt: skip
    if about["runtime"] == "coreml" or about.get("backend") == "coreml":
        yield from verify_core_ml(bundle, task, captures, name, about)
    elif name == PROGRAM:
        yield from _training(bundle, task, captures, config.learning.mode == "mixed")
    else:
        yield from _inference(bundle, task, captures, name, about)


def _check_described(
    bundle: Bundle, config: Config, task: LearningTask, name: str, about: Mapping[str, Any]
) -> None:
    """Nothing, if the entry of a program is one of a program that this version knows, and describes it.

    Raises:
        BundleError: it does not.
    """
    if about["runtime"] not in ("executorch", "coreml"):
        raise BundleError(f"{name} is for {about['runtime']!r}, which is not known here; use a newer version")
    if about["runtime"] == "executorch":
        _check_methods(bundle.folder / name, task, config.learning.mode == "mixed", about)
    if "programs" in bundle.manifest:
        check_entry(bundle, config, task, name, about)


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

        def run(arguments: Sequence[torch.Tensor], name: str = method.name) -> list[torch.Tensor]:
            results = runtime.run(name, [value.numpy() for value in arguments])
            return [torch.as_tensor(result) for result in results]

        if method.name.startswith("step"):
            yield from compare_step(PROGRAM, task, method, run, bundle.weights, captures)
        else:
            inputs = [elsewhere(task, bundle.weights), *drawn_batch(method, captures)]
            found, wanted = run(inputs)[0], method.function(*inputs)[0]
            yield Parity(
                PROGRAM, method.name, "float32", distance(found, wanted), lost=lost_of(found, wanted)
            )


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

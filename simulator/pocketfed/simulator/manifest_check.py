"""Whether a manifest says of a bundle what its configuration makes of it: an app believes every word.

All of it but sizes and hashes of files, batches of programs, and versions follows from the configuration, the heads and the
code here, and is worked out anew. How Core ML's weights are stored is compared with the package itself.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from pocketfed.core.bundle import Bundle
from pocketfed.core.errors import BundleError
from pocketfed.core.head import Head, read_head
from pocketfed.core.learning_task import LearningTask
from pocketfed.core.manifest import about_task
from pocketfed.core.modality import Modality
from pocketfed.core.program_spec import program_spec
from pocketfed.core.release import PROGRAM
from pocketfed.export.coreml.compression import Weights
from pocketfed.simulator.bundle_part import LARGEST_BATCH
from pocketfed.simulator.classifiers import about_heads, check_heads, describe_scores
from pocketfed.simulator.config import Config
from pocketfed.simulator.plans import hyper_of
from pocketfed.simulator.program_entries import (
    CLASSIFY,
    TRAIN,
    delegated_entry,
    gradient_entry,
    inference_entry,
    kind_of,
    package_entry,
    training_entry,
)


def check_manifest(bundle: Bundle, config: Config, task: LearningTask) -> None:
    """Nothing, if what holds for all programs is as the configuration says; of classifiers, as their heads say.

    Raises:
        BundleError: it is not; the message has the first place that differs.
        HeadError: a head is none, or belongs to another encoder.
    """
    heads = {modality: head_of(bundle, modality) for modality in _classified(bundle)}
    check_heads(task, bundle.weights, heads)
    wanted = {**about_task(task, hyper_of(config)), **about_heads(heads)}
    if "programs" not in bundle.manifest:  # that of a simulation's bundle need not say anything of all this
        wanted = {key: value for key, value in wanted.items() if key in bundle.manifest}
    spec = asdict(program_spec(task, config.learning.mode == "mixed"))
    _check(bundle, "", {**wanted, "spec": spec}, bundle.manifest)


def check_entry(
    bundle: Bundle, config: Config, task: LearningTask, name: str, about: Mapping[str, Any]
) -> None:
    """Nothing, if the entry of a program describes what a program of its name is, takes and gives.

    Args:
        bundle: that it is in.
        config: of the bundle.
        task: of the configuration.
        name: of the program.
        about: its entry.

    Raises:
        BundleError: it does not; the message has the first place that differs.
    """
    _check(bundle, f"programs.{name}.", _entry(bundle, config, task, name, about), about)


def head_of(bundle: Bundle, modality: Modality) -> Head:
    """The head that the manifest names.

    Raises:
        BundleError: it names none, or one that is no file of the bundle.
        HeadError: it is none.
    """
    name = str(_classified(bundle)[modality].get("head"))
    if name not in bundle.release.files:
        raise BundleError(
            f"{bundle.folder} has no file {name!r}, which would be the head of {modality}s; make the bundle anew"
        )
    return read_head(bundle.folder / name)


def _classified(bundle: Bundle) -> dict[Modality, Mapping[str, Any]]:
    stated = bundle.manifest.get("classifiers", {})
    return {Modality(name): dict(about) for name, about in stated.items()}


def _entry(
    bundle: Bundle, config: Config, task: LearningTask, name: str, about: Mapping[str, Any]
) -> dict[str, Any]:
    made_with = bundle.manifest["made_with"]
    if name == PROGRAM:
        return training_entry(task, config.learning.mode == "mixed", made_with)
    if name.endswith(".mlpackage"):
        kind, modality = kind_of(name)
        if kind == TRAIN:
            return gradient_entry(task, modality)
        scores = _scores(bundle, modality, 1) if kind == CLASSIFY else None
        return package_entry(task, modality, Weights(about["weights"]), scores)
    kind, modality, precision = _inference(name)
    (described,) = about["methods"].values()
    batch = described["inputs"][0]["shape"][0]
    if type(batch) is not int or not 1 <= batch <= LARGEST_BATCH:
        raise BundleError(f"{name} takes {batch!r} captures at once, at most {LARGEST_BATCH} are possible")
    if precision == "coreml":
        return delegated_entry(task, modality, batch, Weights(about["weights"]), made_with)
    scores = _scores(bundle, modality, batch) if kind == "classify" else None
    return inference_entry(task, modality, batch, precision, made_with, scores)


def _inference(name: str) -> tuple[str, Modality, str]:
    """What a program of ExecuTorch for inference does, with captures of which modality, and how it computes.

    Raises:
        BundleError: none that is made here has this name.
    """
    for modality in Modality:
        for kind, precision in (
            ("embed", "float32"),
            ("embed", "int8"),
            ("embed", "coreml"),
            ("classify", "float32"),
        ):
            if name == f"{kind}_{modality}{'' if precision == 'float32' else f'_{precision}'}.pte":
                return kind, modality, precision
    raise BundleError(f"{name!r} is no program that is known here; use a newer version")


def _scores(bundle: Bundle, modality: Modality, batch: int) -> dict[str, Any]:
    return describe_scores(head_of(bundle, modality), batch)


def _check(bundle: Bundle, place: str, wanted: Mapping[str, Any], stated: Mapping[str, Any]) -> None:
    for key, value in wanted.items():
        if difference := _difference(f"{place}{key}", json.loads(json.dumps(value)), stated.get(key)):
            raise BundleError(f"the manifest of {bundle.folder} has {difference}; make the bundle anew")


def _difference(place: str, wanted: Any, stated: Any) -> str | None:
    """The first place at which two JSON values differ, and how; None if there is none."""
    if isinstance(wanted, dict) and isinstance(stated, dict) and wanted.keys() == stated.keys():
        found = (_difference(f"{place}.{key}", value, stated[key]) for key, value in wanted.items())
    elif isinstance(wanted, list) and isinstance(stated, list) and len(wanted) == len(stated):
        pairs = enumerate(zip(wanted, stated, strict=True))
        found = (_difference(f"{place}[{number}]", one, other) for number, (one, other) in pairs)
    else:
        same = type(wanted) is type(stated) and wanted == stated
        return None if same else f"{stated!r:.200} at {place}, its configuration makes {wanted!r:.200} of it"
    return next((difference for difference in found if difference), None)

"""The whole bundle that a mobile team takes into its app: the learning step, and inference for Android and iOS."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pocketfed.core.bundle import Bundle, Contents, write_bundle
from pocketfed.core.errors import BundleError, CaptureError
from pocketfed.core.head import Head
from pocketfed.core.learning_task import LearningTask, initial_weights
from pocketfed.core.manifest import about_task
from pocketfed.core.modality import Modality
from pocketfed.core.program_spec import program_spec
from pocketfed.core.release import PROGRAM
from pocketfed.core.signing import SigningKey
from pocketfed.export.coreml.compression import Weights
from pocketfed.export.inference import Precision, export_inference
from pocketfed.export.program import task_program
from pocketfed.export.versions import exporter_versions
from pocketfed.simulator.bundle_part import Part
from pocketfed.simulator.bundles import about_plugins, bundle_toml
from pocketfed.simulator.classifiers import about_heads, check_heads, describe_scores, head_files
from pocketfed.simulator.config import Config
from pocketfed.simulator.coreml_parts import delegated_part, embedding_part, training_part
from pocketfed.simulator.plans import hyper_of
from pocketfed.simulator.program import recorded, task_of
from pocketfed.simulator.program_entries import inference_entry, training_entry
from pocketfed.simulator.simulate import load_captures

CALIBRATION = 256
"""Captures of each modality that int8 programs are calibrated on."""


@dataclass(frozen=True)
class Options:
    """What goes into a bundle besides the learning step.

    Attributes:
        batch: captures that an inference program takes at once.
        int8: whether quantised inference programs are made, for which captures are read.
        coreml: whether programs for Core ML are made.
        coreml_weights: how their backbones' weights are stored.
        coreml_training: whether packages with loss and gradient are among them.
        version: of the release; rises.
        max_mb: size of all files above which there is no bundle; None for any size.
        heads: classifiers that are added, for programs from captures to scores.
    """

    batch: int = 1
    int8: bool = True
    coreml: bool = True
    coreml_weights: Weights = Weights.FLOAT16
    coreml_training: bool = True
    version: int = 1
    max_mb: float | None = None
    heads: Mapping[Modality, Head] = field(default_factory=dict)


def build_bundle(
    config: Config,
    weights: NDArray[np.float32] | None,
    folder: Path,
    options: Options,
    key: SigningKey | None,
    tell: Callable[[str], None],
) -> Bundle:
    """Make every program of a configuration, and write them into a folder.

    Args:
        config: backbone, modalities, optimiser; captures for int8.
        weights: to begin with, and those of inference, float32 [p]; untrained ones if None.
        folder: of the bundle.
        options: what goes into it.
        key: signs it; None leaves it unsigned, which phones that trust a key refuse.
        tell: is told of what takes long.

    Raises:
        UserError: captures cannot be read, a head belongs to another encoder, or a program cannot be exported, and
            nothing has been written; or the bundle, which has been written, is larger than allowed.
    """
    task = task_of(config, recorded(config))
    begun = initial_weights(task, config.seed) if weights is None else weights
    check_heads(task, begun, options.heads)
    parts = list(_parts(config, task, begun, options, tell))
    about = {
        **about_task(task, hyper_of(config)),
        **about_heads(options.heads),
        **about_plugins(config),
        "made_with": exporter_versions(),
        "programs": {name: entry for part in parts for name, entry in part.about.items()},
    }
    spec = program_spec(task, config.learning.mode == "mixed")
    files = {name: content for part in parts for name, content in part.files.items()}
    files |= head_files(options.heads)
    tell("writing")
    contents = Contents(spec, task.layout, begun, bundle_toml(config), files, about, options.version)
    made = write_bundle(folder, contents, key)
    if options.max_mb is not None:
        refuse_large(made, options.max_mb)
    return made


def refuse_large(bundle: Bundle, max_mb: float) -> None:
    """Nothing, if the files of a bundle have at most so many MB.

    Raises:
        BundleError: they have more; the message has the size of each program.
    """
    release = bundle.release
    if release.size <= max_mb * 1e6:
        return
    sizes = {program: release.size_of(program) / 1e6 for program in release.manifest["programs"]}
    heaviest = sorted(sizes.items(), key=lambda item: -item[1])
    raise BundleError(
        f"the bundle would have {release.size / 1e6:.2f} MB, more than {max_mb:g}: "
        + ", ".join(f"{name} {size:.2f}" for name, size in heaviest)
        + "; leave programs out (--no-int8, --no-coreml, --no-coreml-training), store Core ML's weights in fewer bits "
        "(--coreml-weights int8), or choose a smaller backbone"
    )


def _parts(
    config: Config,
    task: LearningTask,
    weights: NDArray[np.float32],
    options: Options,
    tell: Callable[[str], None],
) -> Iterator[Part]:
    tell("the learning step")
    yield _training(config, task)
    captures = _calibration(config, task) if options.int8 else {}
    inference = partial(_inference, task, weights, batch=options.batch, allow_portable=config.allow_portable)
    for modality in task.views:
        tell(f"inference of {modality}s")
        yield inference(modality)
        if options.int8:
            tell(f"inference of {modality}s in int8")
            yield inference(modality, precision="int8", calibration=captures[modality])
        if options.coreml:
            tell(f"Core ML for {modality}s")
            yield embedding_part(task, weights, modality, options.coreml_weights)
            yield delegated_part(task, weights, modality, options.batch, options.coreml_weights)
        if options.coreml and options.coreml_training:
            tell(f"Core ML: the gradient of {modality}s")
            yield training_part(task, modality)
        if (head := options.heads.get(modality)) is not None:
            tell(f"a classifier of {modality}s")
            yield inference(modality, head=head)
            if options.coreml:
                yield embedding_part(task, weights, modality, options.coreml_weights, head)


def _training(config: Config, task: LearningTask) -> Part:
    mixed = config.learning.mode == "mixed"
    program = task_program(task, mixed, config.allow_portable)
    return Part({PROGRAM: program}, {PROGRAM: training_entry(task, mixed, exporter_versions())})


def _inference(
    task: LearningTask,
    weights: NDArray[np.float32],
    modality: Modality,
    *,
    batch: int,
    allow_portable: bool,
    precision: Precision = "float32",
    calibration: NDArray[Any] | None = None,
    head: Head | None = None,
) -> Part:
    program = export_inference(
        task, weights, modality, batch,
        precision=precision, calibration=calibration, allow_portable=allow_portable, head=head,
    )  # fmt: skip
    (method,) = program.methods
    name = f"{method}.pte" if precision == "float32" else f"{method}_{precision}.pte"
    scores = None if head is None else describe_scores(head, batch)
    about = inference_entry(task, modality, batch, precision, exporter_versions(), scores)
    return Part({name: program.buffer}, {name: about})


def _calibration(config: Config, task: LearningTask) -> dict[Modality, NDArray[Any]]:
    try:
        splits = load_captures(config)
    except CaptureError as error:
        raise CaptureError(
            f"int8 is calibrated on captures: {error} Add --no-int8 where there are none; a bundle, and what was begun with "
            "one, does not know where its captures were"
        ) from error
    return {modality: splits[modality].train.items[:CALIBRATION] for modality in task.views}

"""Whether what a bundle has for Core ML does what eager PyTorch does: run by `export.mil`, not by Apple's system."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from pocketfed.core.bundle import Bundle
from pocketfed.core.errors import BundleError
from pocketfed.core.learning_step import gradient_method
from pocketfed.core.learning_task import LearningTask
from pocketfed.core.modality import Modality
from pocketfed.export.coreml.compression import Weights, stored_as
from pocketfed.export.coreml.delegate import embedded_package
from pocketfed.export.coreml.embedding import CAPTURES
from pocketfed.export.coreml.training import INPUTS, OUTPUTS
from pocketfed.export.mil import Precision, Program, execute, read_package
from pocketfed.export.mil.interface import check_interface
from pocketfed.simulator.parity import (
    CAPTURES_EACH,
    Parity,
    distance,
    embedded,
    in_batches,
    lost_of,
)
from pocketfed.simulator.program_entries import CLASSIFY, TRAIN, kind_of
from pocketfed.simulator.step_parity import compare_gradient


def verify_core_ml(
    bundle: Bundle, task: LearningTask, captures: Mapping[Modality, NDArray[Any]], file: str, about: Mapping[str, Any]
) -> Iterator[Parity]:  # fmt: skip
    """Compare a package, or the package inside an ExecuTorch program, with eager PyTorch.

    Args:
        bundle: with its weights.
        task: that it was made from.
        captures: of each modality, more than a batch.
        file: the program.
        about: its entry in the manifest.

    Raises:
        BundleError: a package cannot be read, or is for another system or takes other things than the manifest says.
        ExportError: there is no package in the program.
        ProgramError: a package cannot be run.
    """
    path = bundle.folder / file
    if about["runtime"] == "executorch":
        ((method, described),) = about["methods"].items()
        with TemporaryDirectory() as place:
            program = read_package(embedded_package(path.read_bytes(), Path(place)))
            batch, modality = int(described["inputs"][0]["shape"][0]), Modality(method.removeprefix("embed_"))
            yield from _embedding(bundle, task, captures, program, about, file, modality, batch)
        return
    program = read_package(path)
    check_interface(program, about)
    kind, modality = kind_of(file)
    if kind == TRAIN:
        yield from _gradient(bundle, task, captures, program, file, modality)
    else:
        for batch in about["batches"]:
            yield from _embedding(bundle, task, captures, program, about, file, modality, batch)


def _embedding(
    bundle: Bundle, task: LearningTask, captures: Mapping[Modality, NDArray[Any]], program: Program,
    about: Mapping[str, Any], file: str, modality: Modality, batch: int,
) -> Iterator[Parity]:  # fmt: skip
    rows = captures[modality][:CAPTURES_EACH]
    wanted = embedded(bundle, task, modality, torch.from_numpy(rows), classify=file.startswith(CLASSIFY))
    image = about["runtime"] == "coreml" and modality is Modality.PHOTO
    stored = stored_as(program.model)
    if about["weights"] != stored:
        raise BundleError(
            f"{bundle.folder / file}: its weights are stored as {stored}, the manifest says {about['weights']}; make the bundle "
            "anew"
        )
    for precision in Precision:

        def run(part: NDArray[Any], precision: Precision = precision) -> Tensor:
            given = torch.from_numpy(part).float()
            given = given.permute(0, 3, 1, 2) if image else given
            (found,) = execute(program, {CAPTURES: given}, precision).values()
            return found

        kind = str(precision) if stored is Weights.FLOAT16 else f"{precision}, {stored}"
        inside = "package inside, " if about["runtime"] == "executorch" else ""
        found, right = in_batches(run, rows, batch, wanted)
        what = f"{inside}batch of {batch}"
        yield Parity(file, what, kind, distance(found, right), lost=lost_of(found, right))


def _gradient(
    bundle: Bundle, task: LearningTask, captures: Mapping[Modality, NDArray[Any]], program: Program, file: str,
    modality: Modality,
) -> Iterator[Parity]:  # fmt: skip
    method = gradient_method(task, modality)

    def run(arguments: Sequence[Tensor]) -> list[Tensor]:
        inputs = {name: value.float() for name, value in zip(INPUTS, arguments, strict=True)}
        results = execute(program, inputs)
        return [results[name] for name in OUTPUTS if name in results]

    yield from compare_gradient(file, task, method, run, bundle.weights, captures)

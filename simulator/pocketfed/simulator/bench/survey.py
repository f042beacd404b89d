"""What a backbone costs on this machine and which programs there are of it, kept in a file so that nothing is measured twice.

Photos, one thread. The step and the embedding of a batch against eager PyTorch, the embedding of one photo with the
weights inside in float32 and int8, and the Core ML package, of which only the size can be known here.
"""

import json
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pocketfed.core.atomic import write_atomically
from pocketfed.core.errors import ConfigError, ExportError
from pocketfed.core.parsing import parse_json
from pocketfed.export.coreml.convert import package_files
from pocketfed.export.coreml.embedding import embedding_package
from pocketfed.export.inference import Precision, export_inference
from pocketfed.simulator.bench import machine
from pocketfed.simulator.bench.choose import choose_subject
from pocketfed.simulator.bench.contest import Contest
from pocketfed.simulator.bench.run import CALIBRATION, Row, Watcher, measure, prepare, step_contests
from pocketfed.simulator.bench.subject import Subject, captures_of

Survey = dict[str, Any]
"""Of one backbone: `step`, `embedding`, `float32` and `int8` are rows of `bench`, `coreml` has `program_bytes`; one that
could not be made has `refused`, the reason."""


def read_surveys(path: Path, batch: int) -> dict[str, Survey]:
    """Figures by backbone; none if the file is not there.

    Raises:
        ConfigError: it is no such file, or of another batch or machine or other versions.
    """
    if not os.path.exists(path):
        return {}
    try:
        content = parse_json(path.read_text())
        made_with, surveys = (content["machine"], content["batch"]), dict(content["backbones"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError([f"{path} holds no figures of backbones; choose another file"]) from error
    if made_with != (machine.describe(), batch):
        raise ConfigError([f"{path} was measured elsewhere, or with another --batch; choose another file"])
    return surveys


def write_surveys(path: Path, surveys: Mapping[str, Survey], batch: int) -> None:
    """Replace the file."""
    content = {"machine": machine.describe(), "batch": batch, "backbones": surveys}
    write_atomically(path, (json.dumps(content, indent=2) + "\n").encode())


def survey(
    backbone: str, plugins: Sequence[Path], batch: int, rounds: int, processes: int, watcher: Watcher
) -> Survey:
    """Make every program of a backbone and measure those that ExecuTorch runs.

    Args:
        backbone: its name.
        plugins: files that register backbones.
        batch: captures per step.
        rounds, processes: as in `benchmark`.
        watcher: is told of progress; one contest is the whole backbone.

    Raises:
        BenchmarkError: a contest failed.
    """
    subject = choose_subject(backbone, None, plugins, ["photo"], None, batch, allow_portable=False)
    with tempfile.TemporaryDirectory(prefix="pocketfed-survey-") as name:
        folder = Path(name)

        def said(what: str) -> None:
            watcher.phase(f"{backbone}: {what}")

        def timed(contest: Contest) -> Row:
            said(contest.label)
            return measure(folder, contest, processes)

        def inference(precision: Precision) -> Row:
            said(f"exporting inference in {precision}")
            program = f"{precision}.pte"
            (folder / program).write_bytes(_inference(subject, precision))
            return timed(
                Contest("inference", f"one photo, {precision}", "embed_photo", program, 1, 1, 5 * rounds)
            )

        def package() -> Row:
            said("Core ML")
            return {"program_bytes": _package_bytes(subject)}

        step, embed = step_contests(subject, [1], rounds)
        refused = _attempted(lambda: {"slow": prepare(folder, subject, said)})
        exported = "refused" not in refused
        found = {
            "step": timed(step) if exported else refused,
            "embedding": timed(embed) if exported else refused,
            "float32": _attempted(lambda: inference("float32")),
            "int8": _attempted(lambda: inference("int8")),
            "coreml": _attempted(package),
        }
    watcher.finished()
    return found


def _inference(subject: Subject, precision: Precision) -> bytes:
    (modality,) = subject.task.views
    captures = captures_of(subject, modality, CALIBRATION) if precision == "int8" else None
    return export_inference(
        subject.task, subject.weights, modality, 1, precision=precision, calibration=captures
    ).buffer


def _package_bytes(subject: Subject) -> int:
    (modality,) = subject.task.views
    package = embedding_package(subject.task, subject.weights, modality, image=True)
    return sum(map(len, package_files(package, "Embed.mlpackage").values()))


def _attempted(make: Callable[[], Survey]) -> Survey:
    try:
        return make()
    except ExportError as error:
        return {"refused": str(error).strip().splitlines()[0]}

"""Whether bundles of backbones build, how large their programs are, and how far each is from eager PyTorch.

    python benchmarks/bundle_parity.py --out bundles compact timm:mobilenetv3_small_050 repvgg
    python benchmarks/bundle_parity.py --out bundles            # the phone sizes of all families
    python benchmarks/bundle_parity.py --out bundles --photos cifar10_subset.npz resnet18
    python benchmarks/bundle_parity.py --out bundles runs/ghost-half

One at a time, as `pocketfed bundle` and `pocketfed verify` do it. A name is an untrained network in the default
configuration: both modalities, of captures that the package makes, or those that are given. The folder of a simulation
has captures and trained weights of its own. If captures have labels, int8 is also judged by k-NN: what it takes from the
accuracy of the same weights. What was found stays in the folder, so that a second call goes on where the first one ended;
the table has all of it.
"""

import json
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from numpy.typing import NDArray

from pocketfed.core.backbones import PHONES
from pocketfed.core.bundle import Bundle
from pocketfed.core.captures import Split
from pocketfed.core.errors import PocketfedError, RunFolderError
from pocketfed.core.evaluation import clip_labels, is_labelled, nearest
from pocketfed.core.modality import Modality
from pocketfed.export.coreml.compression import choose_weights
from pocketfed.export.executorch import Program
from pocketfed.simulator.bench.features import features_of
from pocketfed.simulator.bundling import Options, build_bundle
from pocketfed.simulator.config import Config
from pocketfed.simulator.config_file import build_config
from pocketfed.simulator.parity import Parity
from pocketfed.simulator.run_folder import reopen
from pocketfed.simulator.simulate import load_captures
from pocketfed.simulator.verification import verify_programs

EVERY = (*PHONES, "timm:mobilenetv3_small_050")
"""The phone size of every family, and a network of timm."""

BANK = 1000
"""Captures that the k nearest are looked for in, and that int8 is calibrated on a part of."""

KINDS = {
    "train.pte": ("train.pte",),
    "embed_*.pte": ("embed_photo.pte", "embed_sound.pte"),
    "embed_*_int8.pte": ("embed_photo_int8.pte", "embed_sound_int8.pte"),
    "embed_*_coreml.pte": ("embed_photo_coreml.pte", "embed_sound_coreml.pte"),
    "Embed*.mlpackage": ("EmbedPhoto.mlpackage", "EmbedSound.mlpackage"),
    "Train*.mlpackage": ("TrainPhoto.mlpackage", "TrainSound.mlpackage"),
}
"""Columns of the table, and the programs of both modalities in each."""


@dataclass(frozen=True)
class Subject:
    """What one row of the table is about.

    Attributes:
        key: name of its record.
        label: in the table.
        config: backbone and captures.
        weights: float32 [p]; untrained ones if None.
    """

    key: str
    label: str
    config: Config
    weights: NDArray[np.float32] | None


def main(
    subjects: Annotated[
        list[str] | None,
        typer.Argument(help="Networks, or folders of simulations. [default: all phone sizes]"),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of what was found; made.")] = Path("runs/bundle_parity"),
    photos: Annotated[Path | None, typer.Option(help="As `pocketfed simulate` takes them.")] = None,
    sounds: Annotated[Path | None, typer.Option(help="As `pocketfed simulate` takes them.")] = None,
    coreml_weights: Annotated[str, typer.Option(help="As `pocketfed bundle` takes it.")] = "float16",
    table_only: Annotated[bool, typer.Option("--table", help="Build nothing; print what is there.")] = False,
) -> None:
    """Build and verify a bundle of each, and print a table in Markdown."""
    torch.set_num_threads(1)
    out.mkdir(parents=True, exist_ok=True)
    options = Options(coreml_weights=choose_weights(coreml_weights))
    captures = {"photos": photos, "sounds": sounds, "photos_limit": BANK, "sounds_limit": BANK}
    chosen = [subject_of(name, captures) for name in subjects or EVERY]
    for subject in chosen:
        record = out / f"{subject.key}.json"
        if not table_only and not record.exists():
            found = examine(subject, options, out / "bundle")
            record.write_text(json.dumps(found, indent=2) + "\n")
            print(f"{subject.label}: {found['seconds']:.0f} s {found.get('failed', '')}", flush=True)
    records = {path.stem: json.loads(path.read_text()) for path in sorted(out.glob("*.json"))}
    print("\n".join(table([records[subject.key] for subject in chosen if subject.key in records])))


def subject_of(name: str, captures: Mapping[str, Any]) -> Subject:
    """An untrained network by its name, or what a simulation has learnt by its folder."""
    if not Path(name).is_dir():
        config = build_config({"learning": {"backbone": name}, "captures": captures})
        return Subject(name.replace(":", "-"), f"`{name}`", config, None)
    _, config, checkpoint = reopen(Path(name))
    if checkpoint is None:
        raise RunFolderError(f"{name} has no checkpoint; let the run finish a round first")
    backbone, rounds = config.learning.backbone, checkpoint.round
    key = f"{backbone.replace(':', '-')}-round-{rounds}"
    return Subject(key, f"`{backbone}`, {rounds} rounds", config, checkpoint.weights)


def examine(subject: Subject, options: Options, place: Path) -> dict[str, Any]:
    """Build and verify one bundle; what is found as JSON values."""
    shutil.rmtree(place, ignore_errors=True)
    began = time.monotonic()
    found: dict[str, Any] = {"label": subject.label}
    try:
        bundle = build_bundle(subject.config, subject.weights, place, options, None, lambda what: None)
        found |= {"weights": bundle.spec.weights, "built": time.monotonic() - began}
        rows = list(verify_programs(bundle, lambda what: None))
        found["programs"] = {
            program: _program(bundle, program, rows) for program in bundle.manifest["programs"]
        }
        found["disagree"] = sorted({row.program for row in rows if not row.agrees})
        found["int8_knn"] = {
            modality: points_of(bundle, modality, split)
            for modality, split in load_captures(subject.config).items()
            if is_labelled(split)
        }
    except PocketfedError as error:
        found["failed"] = str(error)
    finally:
        shutil.rmtree(place, ignore_errors=True)
    return {**found, "seconds": time.monotonic() - began}


def points_of(bundle: Bundle, modality: Modality, split: Split) -> float:
    """How many points of k-NN accuracy are won by going from float32 to int8; below 0 they are lost."""
    accuracy = []
    for suffix in ("", "_int8"):
        buffer = (bundle.folder / f"embed_{modality}{suffix}.pte").read_bytes()
        program = Program(buffer, (f"embed_{modality}",))
        bank, test = (features_of(program, captures, batch=1) for captures in (split.train, split.test))
        accuracy.append(nearest(bank, clip_labels(split.train), test, clip_labels(split.test)))
    return 100 * (accuracy[1] - accuracy[0])


def _program(bundle: Bundle, name: str, rows: Sequence[Parity]) -> dict[str, Any]:
    own = [row for row in rows if row.program == name]
    return {
        "bytes": bundle.release.size_of(name),
        "errors": _largest((row.precision, row.error) for row in own),
        "lost": max(row.lost for row in own),
    }


def _largest(values: Iterable[tuple[str, float]]) -> dict[str, float]:
    """The largest value of each name."""
    largest: dict[str, float] = {}
    for name, value in values:
        largest[name] = max(value, largest.get(name, 0.0))
    return largest


def table(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """Lines of Markdown: for each backbone the MB of its programs, and their largest error."""
    lines = [
        f"| backbone | weights | {' | '.join(f'`{kind}`' for kind in KINDS)} | int8's k-NN, points | verify |",
        f"|---|---|{'---|' * len(KINDS)}---|---|",
    ]
    for record in records:
        if "failed" in record:
            lines.append(
                f"| {record['label']} | does not build: {record['failed']} |{' |' * (len(KINDS) + 2)}"
            )
            continue
        cells = [_cell(record["programs"], programs) for programs in KINDS.values()]
        cells.append(", ".join(f"{points:+.1f}" for points in record.get("int8_knn", {}).values()))
        wrong = [f"`{kind}`" for kind, names in KINDS.items() if set(names) & set(record["disagree"])]
        agrees = f"not {', '.join(wrong)}" if wrong else "agrees"
        lines.append(f"| {record['label']} | {record['weights']:,} | {' | '.join(cells)} | {agrees} |")
    return lines


def _cell(programs: Mapping[str, Any], names: Sequence[str]) -> str:
    """`MB, MB; largest error of each precision; % lost`, the last only where it is at least one half."""
    there = [programs[name] for name in names if name in programs]
    if not there:
        return ""
    worst = _largest(item for program in there for item in program["errors"].items())
    parts = [
        ", ".join(f"{program['bytes'] / 1e6:.2f}" for program in there),
        ", ".join(f"{error:.1e}" for error in worst.values()),
    ]
    if (lost := max(program["lost"] for program in there)) >= 0.005:
        parts.append(f"{lost:.0%} lost")
    return "; ".join(parts)


if __name__ == "__main__":
    typer.run(main)

"""Whether bundles of backbones build, how large their programs are, and how far each is from eager PyTorch.

    python benchmarks/bundle_parity.py --out bundles compact timm:mobilenetv3_small_050 repvgg
    python benchmarks/bundle_parity.py --out bundles            # the phone sizes of all families

One at a time, as `pocketfed bundle` and `pocketfed verify` do it, untrained, both modalities, the default
configuration. What was found stays in the folder, so that a second call goes on where the first one ended; the table
has all of it.
"""

import json
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from pocketfed.core.backbones import PHONES
from pocketfed.core.bundle import Bundle
from pocketfed.core.errors import PocketfedError
from pocketfed.export.coreml.compression import choose_weights
from pocketfed.simulator.bundling import Options, build_bundle
from pocketfed.simulator.config import build_config
from pocketfed.simulator.parity import Parity
from pocketfed.simulator.verification import verify_programs

EVERY = (*PHONES, "timm:mobilenetv3_small_050")
"""The phone size of every family, and a network of timm."""

KINDS = {
    "train.pte": ("train.pte",),
    "embed_*.pte": ("embed_photo.pte", "embed_sound.pte"),
    "embed_*_int8.pte": ("embed_photo_int8.pte", "embed_sound_int8.pte"),
    "embed_*_coreml.pte": ("embed_photo_coreml.pte", "embed_sound_coreml.pte"),
    "Embed*.mlpackage": ("EmbedPhoto.mlpackage", "EmbedSound.mlpackage"),
    "Train*.mlpackage": ("TrainPhoto.mlpackage", "TrainSound.mlpackage"),
}
"""Columns of the table, and the programs of both modalities in each."""


def main(
    backbones: Annotated[
        list[str] | None, typer.Argument(help="Networks. [default: all phone sizes]")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of what was found; made.")] = Path("runs/bundle_parity"),
    coreml_weights: Annotated[str, typer.Option(help="As `pocketfed bundle` takes it.")] = "float16",
    table_only: Annotated[bool, typer.Option("--table", help="Build nothing; print what is there.")] = False,
) -> None:
    """Build and verify a bundle of each backbone, and print a table in Markdown."""
    torch.set_num_threads(1)
    out.mkdir(parents=True, exist_ok=True)
    names = backbones or list(EVERY)
    options = Options(coreml_weights=choose_weights(coreml_weights))
    for name in names:
        record = out / f"{name.replace(':', '-')}.json"
        if not table_only and not record.exists():
            found = examine(name, options, out / "bundle")
            record.write_text(json.dumps(found, indent=2) + "\n")
            print(f"{name}: {found['seconds']:.0f} s {found.get('failed', '')}", flush=True)
    records = {path.stem: json.loads(path.read_text()) for path in sorted(out.glob("*.json"))}
    print("\n".join(table([records[n] for name in names if (n := name.replace(":", "-")) in records])))


def examine(name: str, options: Options, place: Path) -> dict[str, Any]:
    """Build and verify one bundle; what is found as JSON values."""
    shutil.rmtree(place, ignore_errors=True)
    began = time.monotonic()
    found: dict[str, Any] = {"backbone": name}
    try:
        config = build_config({"learning": {"backbone": name}})
        bundle = build_bundle(config, None, place, options, None, lambda what: None)
        found |= {"weights": bundle.spec.weights, "built": time.monotonic() - began}
        rows = list(verify_programs(bundle, lambda what: None))
        found["programs"] = {
            program: _program(bundle, program, rows) for program in bundle.manifest["programs"]
        }
        found["agrees"] = all(row.agrees for row in rows)
    except PocketfedError as error:
        found["failed"] = str(error)
    finally:
        shutil.rmtree(place, ignore_errors=True)
    return {**found, "seconds": time.monotonic() - began}


def _program(bundle: Bundle, name: str, rows: Sequence[Parity]) -> dict[str, Any]:
    errors: dict[str, float] = {}
    for row in rows:
        if row.program == name:
            errors[row.precision] = max(row.error, errors.get(row.precision, 0.0))
    return {"bytes": bundle.release.size_of(name), "errors": errors}


def table(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """Lines of Markdown: for each backbone the MB of both modalities' programs, and their largest error."""
    lines = [
        f"| backbone | weights | {' | '.join(f'`{kind}`' for kind in KINDS)} | verify |",
        f"|---|---|{'---|' * len(KINDS)}---|",
    ]
    for record in records:
        if "failed" in record:
            lines.append(
                f"| `{record['backbone']}` | does not build: {record['failed']} |{' |' * (len(KINDS) + 1)}"
            )
            continue
        cells = [_cell(record["programs"], programs) for programs in KINDS.values()]
        agrees = "agrees" if record["agrees"] else "disagrees"
        lines.append(f"| `{record['backbone']}` | {record['weights']:,} | {' | '.join(cells)} | {agrees} |")
    return lines


def _cell(programs: Mapping[str, Any], names: Sequence[str]) -> str:
    """`MB, MB; largest error of each precision`."""
    there = [programs[name] for name in names if name in programs]
    worst: dict[str, float] = {}
    for program in there:
        for precision, error in program["errors"].items():
            worst[precision] = max(error, worst.get(precision, 0.0))
    sizes = ", ".join(f"{program['bytes'] / 1e6:.2f}" for program in there)
    return f"{sizes}; {', '.join(f'{error:.1e}' for error in worst.values())}" if there else ""


if __name__ == "__main__":
    typer.run(main)

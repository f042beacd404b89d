"""What is in a bundle, as people read it."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table

from pocketfed.core.bundle import PROGRAM, Bundle
from pocketfed.export.inspection import inspect_program
from pocketfed.export.mil import read_package

BACKENDS = {"XnnpackBackend": "XNNPACK", "CoreMLBackend": "Core ML"}
"""Names of ExecuTorch's backends, for people."""


@dataclass(frozen=True)
class Described:
    """One method of a program, or a Core ML package.

    Attributes:
        file: in the bundle.
        method: of an ExecuTorch program; the function of a package.
        runtime: `executorch` or `coreml`.
        precision: as the manifest says.
        size: of the file or package, bytes.
        delegates: pieces that a backend runs, with its name; for a package, its operators.
        arena: planned memory in bytes; None where the system decides.
        slow: portable kernels that are not cheap, a line each.
    """

    file: str
    method: str
    runtime: str
    precision: str
    size: int
    delegates: str
    arena: int | None
    slow: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)


def describe_bundle(bundle: Bundle) -> list[Described]:
    """Every method of every program, in the manifest's order."""
    programs = bundle.manifest.get("programs", {PROGRAM: {"runtime": "executorch", "precision": "float32"}})
    described: list[Described] = []
    for file, about in programs.items():
        size = bundle.release.size_of(file)
        if about["runtime"] == "coreml":
            kinds = Counter(o.type for o in read_package(bundle.folder / file).block.operations)
            operators = sum(kinds.values()) - kinds["const"]
            described.append(
                Described(
                    file, "main", "coreml", about["precision"], size, f"{operators} operators", None, ()
                )
            )
            continue
        for method, parts in inspect_program((bundle.folder / file).read_bytes()).items():
            pieces = ", ".join(
                f"{count} {BACKENDS.get(n, n)}" for n, count in Counter(parts.delegates).items()
            )
            slow = tuple(f"{method}: {name}, {count} times" for name, count in parts.slow.items())
            described.append(
                Described(
                    file, method, "executorch", about["precision"], size, pieces, parts.arena_bytes, slow
                )
            )
    return described


def programs_table(programs: list[Described]) -> Table:
    """A line for each method, under the name and size of its program."""
    table = Table("program", "precision", "MB", "runs on", "arena MB")
    former = ""
    for row in programs:
        if row.file != former:
            table.add_section()
            table.add_row(f"[bold]{row.file}[/bold]", row.precision, f"{row.size / 1e6:.2f}", "", "")
        former = row.file
        kernels = f", {len(row.slow)} slow kernels" if row.slow else ""
        arena = "" if row.arena is None else f"{row.arena / 1e6:.2f}"
        table.add_row(f"  {row.method}", "", "", row.delegates + kernels, arena)
    return table


def slow_kernels(programs: Sequence[Described]) -> list[str]:
    """What runs on portable kernels that are not cheap, a line for each operator of each method."""
    return [f"slow kernel: {program.file}: {line}" for program in programs for line in program.slow]


def signatures(bundle: Bundle) -> list[str]:
    """What each method takes and gives, a few lines each."""
    lines: list[str] = []
    for file, about in bundle.manifest.get("programs", {}).items():
        for name, described in about.get("methods", {"main": about}).items():
            takes, gives = (", ".join(map(_tensor, described[side])) for side in ("inputs", "outputs"))
            lines += [f"{file} {name}", f"  takes {takes}", f"  gives {gives}"]
    return lines


def classifiers(bundle: Bundle) -> list[str]:
    """What classifiers name, how good they are, and which plug-ins verifying takes, a line each."""
    lines = [
        f"classes of {modality}s: {', '.join(about['labels'])}\n  {about['accuracy']:.1%} of {about['held_out']} held-out "
        f"clips named rightly, {about['chance']:.1%} by always naming the commonest class"
        for modality, about in bundle.manifest.get("classifiers", {}).items()
    ]
    return lines + [
        f"made with the plug-in {about['name']}, SHA-256 {about['sha256']}"
        for about in bundle.manifest.get("plugins", [])
    ]


def _tensor(value: dict[str, Any]) -> str:
    return f"{value['name']} {value['dtype']} {value['shape']}"

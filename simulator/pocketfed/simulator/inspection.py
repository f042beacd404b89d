"""What is in a bundle, as people read it."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich.table import Table
from rich.text import Text

from pocketfed.core.bundle import Bundle
from pocketfed.core.errors import BundleError, ExportError
from pocketfed.core.release import PROGRAM
from pocketfed.core.visible import visible
from pocketfed.export.coreml.delegate import embedded_package
from pocketfed.export.inspection import inspect_program
from pocketfed.export.mil import read_package
from pocketfed.simulator.blaming import blaming

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
        delegates: pieces that a backend runs, with its name; for a package, how many operators it has.
        operators: how often each occurs, most frequent first, by the names of what runs it; constants do not count.
        arena: planned memory in bytes; None where the system decides.
        portable: how often each kernel runs outside a backend, by name; empty for a package.
        slow: those of them that are not cheap, a line each.
    """

    file: str
    method: str
    runtime: str
    precision: str
    size: int
    delegates: str
    operators: Mapping[str, int]
    arena: int | None
    portable: Mapping[str, int]
    slow: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)


def describe_bundle(bundle: Bundle) -> list[Described]:
    """Every method of every program, in the manifest's order.

    Raises:
        BundleError: the manifest does not say what a program is, or a program cannot be read.
    """
    programs = bundle.manifest.get("programs", {PROGRAM: {"runtime": "executorch", "precision": "float32"}})
    described: list[Described] = []
    for file, about in programs.items():
        path = bundle.folder / file
        with _stated(bundle, file):
            runtime, precision, backend = about["runtime"], about["precision"], about.get("backend")
            if (runtime == "coreml") != path.is_dir():
                raise TypeError(f"it is a {'folder' if runtime != 'coreml' else 'file'}")
        size = bundle.release.size_of(file)
        with blaming(f"{path} cannot be read"):
            if runtime == "coreml":
                described.append(_package(path, file, precision, size))
            else:
                described += _methods(path.read_bytes(), file, precision, size, backend == "coreml")
    return described


def _package(path: Path, file: str, precision: str, size: int) -> Described:
    inside = _package_operators(path)
    count = f"{sum(inside.values())} operators"
    return Described(file, "main", "coreml", precision, size, count, inside, None, {}, ())


def _methods(program: bytes, file: str, precision: str, size: int, delegated: bool) -> Iterator[Described]:
    """Of an ExecuTorch program, which has a Core ML package inside if `delegated`."""
    for method, parts in inspect_program(program, open_pieces=True).items():
        pieces = ", ".join(f"{count} {BACKENDS.get(n, n)}" for n, count in Counter(parts.delegates).items())
        slow = tuple(f"{method}: {name}, {count} times" for name, count in parts.slow.items())
        inside = parts.operators
        if delegated:
            inside = _most_frequent(inside, _embedded_operators(program))
        yield Described(
            file,
            method,
            "executorch",
            precision,
            size,
            pieces,
            inside,
            parts.arena_bytes,
            parts.kernels,
            slow,
        )


def headline(bundle: Bundle) -> list[str]:
    """What the network is, one line; none of a bundle that does not say.

    Raises:
        BundleError: what it says has gaps.
    """
    about, spec = bundle.manifest, bundle.spec
    if "backbone" not in about:
        return []
    with _stated(bundle, "the network"):
        said = f"{about['backbone']}, {spec.weights:,} weights, {about['features']} features, {about['optimiser']}"
    return [f"{said}, batches of {spec.batch}"]


def programs_table(programs: list[Described]) -> Table:
    """A line for each method, under the name and size of its program."""
    table = Table("program", "precision", "MB", "runs on", "arena MB")
    former = ""
    for row in programs:
        if row.file != former:
            table.add_section()
            size, precision = f"{row.size / 1e6:.2f}", visible(str(row.precision))
            table.add_row(Text(row.file, "bold"), precision, size, "", "")
        former = row.file
        kernels = f", {len(row.slow)} slow kernels" if row.slow else ""
        arena = "" if row.arena is None else f"{row.arena / 1e6:.2f}"
        table.add_row(f"  {visible(row.method)}", "", "", row.delegates + kernels, arena)
    return table


def slow_kernels(programs: Sequence[Described]) -> list[str]:
    """What runs on portable kernels that are not cheap, a line for each operator of each method."""
    return [f"slow kernel: {program.file}: {line}" for program in programs for line in program.slow]


def signatures(bundle: Bundle, programs: Sequence[Described]) -> list[str]:
    """What each method takes and gives, as far as the manifest says it, and what it runs, a few lines each.

    Raises:
        BundleError: what it says has no names, types or shapes.
    """
    lines: list[str] = []
    for program in programs:
        about = bundle.manifest.get("programs", {}).get(program.file, {})
        lines.append(f"{program.file} {program.method}")
        with _stated(bundle, program.file):
            described = about.get("methods", {program.method: about}).get(program.method, {})
            for word, side in (("takes", "inputs"), ("gives", "outputs")):
                if side in described:
                    lines.append(f"  {word} {', '.join(map(_tensor, described[side]))}")
        lines.append(f"  runs {_frequent(program.operators)}")
        if program.portable:
            lines.append(f"  of these on portable kernels {_frequent(program.portable)}")
    return lines


def _stated(bundle: Bundle, file: str) -> AbstractContextManager[None]:
    """Around what the manifest says of a program."""
    return blaming(f"the manifest of {bundle.folder} does not describe {file} as this version reads it")


def classifiers(bundle: Bundle) -> list[str]:
    """What classifiers name, how good they are, and which plug-ins verifying takes, a line each.

    Raises:
        BundleError: what the manifest says of them has gaps.
    """
    with _stated(bundle, "classifiers and plug-ins"):
        lines: list[str] = []
        for modality, about in bundle.manifest.get("classifiers", {}).items():
            lines.append(f"classes of {modality}s: {', '.join(about['labels'])}")
            lines.append(
                f"  {about['accuracy']:.1%} of {about['held_out']} held-out clips named rightly, {about['chance']:.1%} by "
                "always naming the commonest class"
            )
        return lines + [
            f"made with the plug-in {about['name']}, SHA-256 {about['sha256']}"
            for about in bundle.manifest.get("plugins", [])
        ]


def _tensor(value: dict[str, Any]) -> str:
    return f"{value['name']} {value['dtype']} {value['shape']}"


def _frequent(operators: Mapping[str, int], shown: int = 6) -> str:
    """The most frequent ones, and how many others.

    >>> _frequent({"conv": 9, "add": 2, "silu": 1}, shown=2)
    '9 conv, 2 add, 1 more'
    """
    named = [f"{count} {name}" for name, count in list(operators.items())[:shown]]
    rest = list(operators.values())[shown:]
    return ", ".join([*named, *([f"{sum(rest)} more"] if rest else [])]) or "nothing"


def _most_frequent(*counts: Mapping[str, int]) -> dict[str, int]:
    """All counts together, the largest first."""
    every = Counter[str]()
    for part in counts:
        every.update(part)
    return dict(every.most_common())


def _package_operators(package: Path) -> dict[str, int]:
    kinds = Counter(operation.type for operation in read_package(package).block.operations)
    del kinds["const"]
    return _most_frequent(kinds)


def _embedded_operators(program: bytes) -> dict[str, int]:
    with TemporaryDirectory() as place:
        package = embedded_package(program, Path(place))
        try:
            return _package_operators(package)
        except BundleError as error:  # it names a folder that is about to be gone
            raise ExportError("the Core ML package in it is damaged") from error

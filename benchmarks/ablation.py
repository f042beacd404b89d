"""What each pass of the lowering is worth: python benchmarks/ablation.py --plugin benchmarks/networks.py plain dwsep

Every program is built with all passes but one and timed against eager PyTorch in fresh processes, in turn with the
program that has all passes. Prints a Markdown table: the time of a step without the pass, relative to with it. Run it
on a quiet machine; it takes minutes per network.
"""

import statistics
import tempfile
from dataclasses import fields, replace
from pathlib import Path
from typing import Annotated

import typer

from pocketfed.core.learning_step import step_method
from pocketfed.export.executorch import build_program
from pocketfed.export.lowering import Passes, lower
from pocketfed.simulator.bench.choose import choose_subject
from pocketfed.simulator.bench.contest import Contest
from pocketfed.simulator.bench.run import prepare, run_child
from pocketfed.simulator.bench.subject import Subject

ALL = Passes()
BASE = "all passes"


def main(
    backbones: Annotated[list[str], typer.Argument(help="Networks to measure.")],
    plugin: Annotated[list[Path] | None, typer.Option(help="Python file that registers backbones.")] = None,
    modality: Annotated[str, typer.Option(help="photo or sound.")] = "photo",
    batch: Annotated[int, typer.Option(help="Captures per step; each gives two views.")] = 16,
    processes: Annotated[int, typer.Option(help="Fresh processes for each program.")] = 3,
) -> None:
    """Print the table, a network at a time as it is finished."""
    columns: dict[str, dict[str, str]] = {}
    for backbone in backbones:
        subject = choose_subject(backbone, None, plugin or [], [modality], None, batch, allow_portable=False)
        columns[backbone] = column(subject, processes)
        print(table(columns), flush=True)


def column(subject: Subject, processes: int) -> dict[str, str]:
    """The ratio to eager with all passes, then for each pass how much longer a step takes without it."""
    variants = {BASE: ALL} | {
        f"without {field.name}": replace(ALL, **{field.name: False}) for field in fields(Passes)
    }
    (modality,) = subject.task.views
    method = step_method(subject.task, [modality])
    with tempfile.TemporaryDirectory(prefix="pocketfed-ablation-") as name:
        folder = Path(name)
        prepare(folder, subject, lambda text: None)
        programs: dict[str, bytes] = {}
        for label, passes in variants.items():
            lowered = lower(method.function, method.example, passes)
            programs[label] = build_program({method.name: (lowered, method.example)}).buffer
            (folder / f"{label}.pte").write_bytes(programs[label])
        changed = [label for label in variants if label == BASE or programs[label] != programs[BASE]]
        ratios: dict[str, list[float]] = {label: [] for label in changed}
        for _ in range(processes):
            for label in changed:
                contest = Contest("method", label, method.name, f"{label}.pte", subject.task.batch, 1, 15)
                result = run_child(folder, contest)
                ratios[label].append(result["executorch"]["median_ms"] / result["eager"]["median_ms"])
    medians = {label: statistics.median(values) for label, values in ratios.items()}
    best = medians.pop(BASE)
    shown = {label: f"{medians[label] / best:.2f}" if label in medians else "same" for label in variants}
    return shown | {BASE: f"{best:.2f} of eager"}


def table(columns: dict[str, dict[str, str]]) -> str:
    """Markdown: a row for each pass, a column for each network."""
    rows = list(next(iter(columns.values())))
    lines = ["| | " + " | ".join(columns) + " |", "|---|" + "---|" * len(columns)]
    lines += [f"| {row} | " + " | ".join(column[row] for column in columns.values()) + " |" for row in rows]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    typer.run(main)

"""What it gains not to wait for slow phones, in simulated time.

    python benchmarks/asynchronous.py --out runs/asynchronous --json docs/asynchronous.json --plot docs/asynchronous.png

Sixteen phones take 100, 200 or 400 seconds over a round, in turn, and 5 more to send and fetch. They really learn; only
their time is simulated. Three runs with the same number of updates: rounds that wait for all phones, and rounds that
are over after four updates and after one.
"""

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.table import Table

from pocketfed.simulator import run_folder
from pocketfed.simulator.config import Config
from pocketfed.simulator.config_file import build_config, overlay
from pocketfed.simulator.display import Display
from pocketfed.simulator.simulate import simulate
from pocketfed.simulator.terminal import Terminal

PHONES = 16
SHARED: dict[str, Any] = {
    "captures": {"side": 16, "seconds": 0.5, "photos_limit": 640, "sounds_limit": 640},
    "fleet": {
        "phones": PHONES, "delays": [105.0, 205.0, 405.0], "jitter": 0.02, "alpha": 1.0,
        "photos_only": 0.0, "sounds_only": 0.0,
    },
    "learning": {"batch": 16, "cosine": False},
}  # fmt: skip

Curve = list[tuple[float, float]]
"""(simulated minutes, value)."""


def modes(rounds: int, exponent: float) -> dict[str, dict[str, Any]]:
    """What each run sets. A version of k updates moves k / 16 of the way, so that 16 updates move as far everywhere."""
    found: dict[str, dict[str, Any]] = {"waits for all 16": {"rounds": rounds, "evaluate_every": 1}}
    for buffer in (4, 1):
        versions = rounds * PHONES // buffer
        found[f"asynchronous, {buffer} a version"] = {
            "rounds": versions,
            "evaluate_every": PHONES // buffer,
            "asynchronous": {
                "enabled": True, "buffer": buffer, "concurrency": PHONES, "max_staleness": 1000,
                "exponent": exponent, "discounts": "weight", "step": buffer / PHONES,
            },
        }  # fmt: skip
    return found


def main(
    out: Annotated[Path, typer.Option(help="Folder for the runs.")],
    json_path: Annotated[Path | None, typer.Option("--json", help="Figures.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Picture; its ending decides the format.")] = None,
    rounds: Annotated[int, typer.Option(help="Of the run that waits, 16 updates each.")] = 10,
    seed: Annotated[int, typer.Option(help="Of everything.")] = 0,
    exponent: Annotated[float, typer.Option(help="Of (1 + rounds behind)^-a.")] = 0.5,
    runtime: Annotated[str, typer.Option(help="executorch or torch.")] = "executorch",
) -> None:
    """Run all modes, one after another, and show what each came to."""
    console = Terminal()
    figures = {}
    for name, settings in modes(rounds, exponent).items():
        console.print(f"{name}, {settings['rounds']} versions", style="bold")
        config = build_config(overlay({**SHARED, **settings}, {"seed": seed, "runtime": runtime}))
        figures[name] = run(config, out / name.replace(" ", "-").replace(",", ""), console)
    target = figures["waits for all 16"]["loss"][-1][1]
    for found in figures.values():
        found["minutes_to_loss"] = next((at for at, loss in found["loss"] if loss <= target), None)
    console.print(table(figures, target))
    if json_path:
        json_path.write_text(json.dumps({"seed": seed, "loss": target, "runs": figures}, indent=1) + "\n")
    if plot:
        draw(figures, plot)


def run(config: Config, folder: Path, console: Terminal) -> dict[str, Any]:
    """One run; what it came to."""
    began = time.monotonic()
    with Display(console) as display:
        display.expect(config.rounds)
        done = simulate(config, folder, display, resume=(folder / "config.toml").exists())
    records = run_folder.read_metrics(done, config.rounds)
    return {
        "minutes": records[-1]["simulated_seconds"] / 60,
        "wall_seconds": round(time.monotonic() - began, 1),
        "updates": sum(record["phones"] for record in records),
        "loss": losses(records),
        "knn": [(r["simulated_seconds"] / 60, mean(r["knn"])) for r in records if r.get("knn")],
        "mean_staleness": float(np.mean([record["staleness"]["mean"] for record in records[1:]])),
        "max_staleness": max(record["staleness"]["max"] for record in records),
    }


def losses(records: Sequence[run_folder.Record]) -> Curve:
    """Mean training loss of the last 16 updates, whatever a version is, by time."""
    curve: Curve = []
    recent: list[float] = []
    for record in records[1:]:
        recent = (recent + [mean(record["loss"])] * record["phones"])[-PHONES:]
        if len(recent) == PHONES:
            curve.append((record["simulated_seconds"] / 60, float(np.mean(recent))))
    return curve


def mean(values: Mapping[str, float]) -> float:
    """Over photos and sounds."""
    return float(np.mean(list(values.values())))


def table(figures: Mapping[str, Mapping[str, Any]], target: float) -> Table:
    """A line for each run."""
    shown = Table(title="the same number of updates, in simulated time")
    for heading in (
        "", "updates", "minutes", f"minutes to loss {target:.3f}", "last loss", "k-NN", "behind (mean, most)", "wall s",
    ):  # fmt: skip
        shown.add_column(heading, justify="left" if not heading else "right")
    for name, found in figures.items():
        reached = found["minutes_to_loss"]
        shown.add_row(
            name,
            str(found["updates"]),
            f"{found['minutes']:.1f}",
            "never" if reached is None else f"{reached:.1f}",
            f"{found['loss'][-1][1]:.3f}",
            f"{found['knn'][-1][1]:.1%}",
            f"{found['mean_staleness']:.1f}, {found['max_staleness']}",
            f"{found['wall_seconds']:.0f}",
        )
    return shown


def draw(figures: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Loss and accuracy against simulated minutes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    for (name, found), colour in zip(figures.items(), ("#555555", "#2a7f62", "#c7762b"), strict=True):
        left.plot(*zip(*found["loss"], strict=True), color=colour, label=name, linewidth=1.8)
        right.plot(
            *zip(*((at, 100 * share) for at, share in found["knn"]), strict=True),
            color=colour, label=name, linewidth=1.8, marker="o", markersize=3.5,
        )  # fmt: skip
    left.set_title("training loss, mean of the last 16 updates", loc="left", fontsize=10)
    right.set_title("k-NN accuracy of the frozen encoder, %", loc="left", fontsize=10)
    for axes in (left, right):
        axes.set_xlabel("simulated minutes")
        axes.set_xlim(left=0)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#dddddd", linewidth=0.6)
    right.legend(frameon=False, fontsize=9, loc="lower right")
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    typer.run(main)

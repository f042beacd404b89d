"""Figures of a benchmark as a picture."""

import io
from collections.abc import Sequence
from pathlib import Path

from pocketfed.core.atomic import write_atomically
from pocketfed.core.errors import ConfigError
from pocketfed.simulator.bench.run import Row, in_words


def check_ending(path: Path) -> None:
    """Nothing, if matplotlib draws files that end so.

    Raises:
        ConfigError: it does not; the message has the endings that there are.
    """
    from matplotlib.backend_bases import FigureCanvasBase

    known = FigureCanvasBase.get_supported_filetypes()
    if _ending(path) not in known:
        raise ConfigError(
            [f"--plot: {path} has no ending of a picture; end it with one of: .{', .'.join(sorted(known))}"]
        )


def plot(rows: Sequence[Row], title: str, path: Path) -> None:
    """Bars of the time relative to eager PyTorch, one for each row, with the milliseconds; the file's ending, one that
    `check_ending` lets pass, decides the format."""
    from matplotlib.figure import Figure

    measured = [row for row in rows if "refused" not in row]
    figure = Figure(figsize=(9, 1.2 + 0.42 * len(measured)), layout="constrained")
    axes = figure.subplots()
    places = range(len(measured))
    ratios = [row["ratio_to_eager"] for row in measured]
    axes.barh(places, ratios, color=["#2a7f62" if ratio <= 1 else "#c7762b" for ratio in ratios], height=0.62)
    axes.axvline(1.0, color="#333333", linewidth=1)
    axes.set_yticks(places, [_label(row) for row in measured])
    axes.invert_yaxis()
    axes.set_xlim(0, 1.5 * max([*ratios, 1.0]))
    for place, row in zip(places, measured, strict=True):
        ours, eager = row["executorch"]["median_ms"], row["eager"]["median_ms"]
        text = f" {row['ratio_to_eager']:.2f}   {ours:.3g} of {eager:.3g} ms"
        axes.text(
            row["ratio_to_eager"], place, text, va="center", fontsize=9, bbox={"color": "white", "pad": 1}
        )
    axes.set_xlabel("time relative to eager PyTorch (left of the line is faster)")
    axes.set_title(title, loc="left", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    drawn = io.BytesIO()
    figure.savefig(drawn, format=_ending(path), dpi=150)
    write_atomically(path, drawn.getvalue())


def _ending(path: Path) -> str:
    return path.suffix.removeprefix(".").lower()


def _label(row: Row) -> str:
    return f"{row['label']}, batch {row['batch']}, {in_words(row['threads'])}"

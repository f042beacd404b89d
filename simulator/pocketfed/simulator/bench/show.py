"""What a person sees of a benchmark: progress, tables, and lines about what must be known beside them."""

from collections.abc import Sequence

from rich.box import SIMPLE
from rich.table import Table
from rich.text import Text

from pocketfed.simulator.bench.run import Row
from pocketfed.simulator.progress import OneBar


class BenchDisplay(OneBar):
    """A progress bar over contests; see `run.Watcher`."""

    def expect(self, contests: int) -> None:
        """See `run.Watcher`."""
        self._progress.update(self._task, total=contests)

    def finished(self) -> None:
        """See `run.Watcher`."""
        self._progress.advance(self._task)


def times_table(rows: Sequence[Row]) -> Table:
    """Steps, embeddings and inference against eager PyTorch."""
    table = _table(
        "time, ms, against eager PyTorch in the same process, in turn",
        ("threads", "batch", "median", "p95", "eager", "ratio", "load"),
    )
    for row in rows:
        ours, theirs = row["executorch"], row["eager"]
        table.add_row(
            row["label"],
            str(row["threads"]),
            str(row["batch"]),
            *(f"{value:.3g}" for value in (ours["median_ms"], ours["p95_ms"], theirs["median_ms"])),
            Text(f"{row['ratio_to_eager']:.2f}", "bold"),
            f"{row['load_ms']:.3g}",
        )
    return table


def sizes_table(rows: Sequence[Row]) -> Table:
    """Memory of the same, and size of the program that they are in."""
    table = _table("size, MB", ("threads", "program", "arena", "peak", "eager's peak"))
    for row in rows:
        sizes = (
            row["program_bytes"], row["arena_bytes"], row["executorch"]["resident_bytes"],
            row["eager"]["resident_bytes"],
        )  # fmt: skip
        table.add_row(row["label"], str(row["threads"]), *map(_megabytes, sizes))
    return table


def peers_table(rows: Sequence[Row]) -> Table:
    """Training without augmentation, one thread, against other engines."""
    table = _table(
        "training on the same views, one thread", ("step ms", "eager ms", "peer ms", "of eager", "of peer")
    )
    for row in rows:
        if "refused" not in row:
            times = (row[name]["median_ms"] for name in ("executorch", "eager", row["peer"]))
            table.add_row(
                row["label"],
                *(f"{value:.4g}" for value in times),
                f"{row['ratio_to_eager']:.2f}",
                Text(f"{row['ratio_to_peer']:.3g}", "bold"),
            )
    return table


def refusals(rows: Sequence[Row]) -> list[str]:
    """One sentence for each peer that cannot train this network."""
    return [f"{row['peer']} cannot train this network: {row['refused']}" for row in rows if "refused" in row]


def _table(title: str, columns: Sequence[str]) -> Table:
    """One narrow enough for 80 columns."""
    table = Table(title=title, box=SIMPLE, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("")
    for column in columns:
        table.add_column(column, justify="right")
    return table


def _megabytes(size: float | None) -> str:
    return "-" if size is None else f"{size / 1e6:.2f}"

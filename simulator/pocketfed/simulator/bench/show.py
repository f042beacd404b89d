"""What a person sees of a benchmark: progress, tables, and lines about what must be known beside them."""

from collections.abc import Sequence

from rich.table import Table

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


def figures_table(rows: Sequence[Row]) -> Table:
    """Steps, embeddings and inference against eager PyTorch."""
    table = Table(title="against eager PyTorch, in the same process, in turn")
    table.add_column("")
    for column in (
        "threads", "batch", "median ms", "p95 ms", "eager ms", "ratio", "load ms", "program MB", "arena MB", "peak MB",
        "eager MB",
    ):  # fmt: skip
        table.add_column(column, justify="right")
    for row in rows:
        ours, theirs = row["executorch"], row["eager"]
        table.add_row(
            row["label"],
            str(row["threads"]),
            str(row["batch"]),
            *(f"{value:.3g}" for value in (ours["median_ms"], ours["p95_ms"], theirs["median_ms"])),
            f"[bold]{row['ratio_to_eager']:.2f}[/bold]",
            f"{row['load_ms']:.3g}",
            *(_megabytes(size) for size in (row["program_bytes"], row["arena_bytes"])),
            *(_megabytes(contestant["resident_bytes"]) for contestant in (ours, theirs)),
        )
    return table


def peers_table(rows: Sequence[Row]) -> Table:
    """Training without augmentation, one thread, against other engines."""
    table = Table(title="training on the same views, one thread")
    table.add_column("")
    for column in ("this step ms", "eager ms", "peer ms", "of eager", "of peer"):
        table.add_column(column, justify="right")
    for row in rows:
        if "refused" not in row:
            times = (row[name]["median_ms"] for name in ("executorch", "eager", row["peer"]))
            table.add_row(
                row["label"],
                *(f"{value:.4g}" for value in times),
                f"{row['ratio_to_eager']:.2f}",
                f"[bold]{row['ratio_to_peer']:.3g}[/bold]",
            )
    return table


def refusals(rows: Sequence[Row]) -> list[str]:
    """One sentence for each peer that cannot train this network."""
    return [f"{row['peer']} cannot train this network: {row['refused']}" for row in rows if "refused" in row]


def _megabytes(size: float | None) -> str:
    return "-" if size is None else f"{size / 1e6:.2f}"

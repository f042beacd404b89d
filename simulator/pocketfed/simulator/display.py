"""What the user sees while a simulation runs, and the table at its end."""

from collections.abc import Sequence

from rich.table import Table

from pocketfed.core.modality import Modality
from pocketfed.simulator.best import best_so_far
from pocketfed.simulator.progress import OneBar
from pocketfed.simulator.run_folder import Record
from pocketfed.simulator.terminal import Terminal


class Display(OneBar):
    """A progress bar over rounds, with the loss of each modality and how the current round is getting on."""

    def __init__(self, console: Terminal) -> None:
        super().__init__(console)
        self._rounds = 0
        self._loss = ""

    def expect(self, rounds: int) -> None:
        """How many rounds the run has."""
        self._rounds = rounds

    def note(self, text: str) -> None:
        """See `Watcher`."""
        self._console.print(text, soft_wrap=True)

    def answered(self, round_number: int, done: int, cohort: int) -> None:
        """See `Watcher`."""
        self._progress.update(
            self._task,
            description=f"round {round_number}: {done} of {cohort} phones{self._loss}",
            completed=round_number - 1 + done / cohort,
            total=self._rounds,
        )

    def finished(self, record: Record) -> None:
        """See `Watcher`."""
        self._loss = "".join(f", {name} loss {loss:.3f}" for name, loss in record["loss"].items())
        line = f"round {record['round']:>3}" + (
            f"  {record['seconds']:6.1f} s" if record["round"] else "  untrained"
        )
        line += "".join(f"   {name} loss {loss:.3f}" for name, loss in record["loss"].items())
        line += "".join(
            f"   {name} k-NN {knn:.1%} probe {record['probe'][name]:.1%}"
            for name, knn in record.get("knn", {}).items()
        )
        if (spent := record.get("privacy")) is not None:
            line += f"   epsilon {spent['epsilon']:.2f} of {spent['budget']:g}"
        for failure in record["failed"][:3]:
            line += f"\n           phone {failure['phone']} did not count: {failure['reason']}"
        if record["failures"] > 3:
            line += f"\n           and {record['failures'] - 3} more"
        self._console.print(line, soft_wrap=True)


def summary_table(records: Sequence[Record]) -> Table:
    """Before, after and the best in between, for each modality: k-NN and linear probe."""
    best = best_so_far(records)
    judged = [record for record in records if record.get("knn")]
    table = Table(title="Frozen encoder, test captures")
    for heading in (
        "",
        "measure",
        "untrained",
        f"round {(judged or records)[-1]['round']}",
        "gain (points)",
        "best (round)",
    ):
        table.add_column(heading, justify="left" if heading in ("", "measure") else "right")
    for modality in Modality:
        for measure, title in (("knn", "k-NN"), ("probe", "linear probe")):
            if not judged or modality not in judged[0][measure]:
                continue
            first, last = judged[0][measure][modality], judged[-1][measure][modality]
            table.add_row(
                f"{modality}s" if measure == "knn" else "",
                title,
                f"{first:.1%}",
                f"{last:.1%}",
                f"{100 * (last - first):+.1f}",
                f"{found.accuracy:.1%} ({found.round})"
                if (found := best.get(f"{modality}-{measure}"))
                else "",
            )
    return table

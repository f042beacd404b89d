"""The progress bar of every command."""

from types import TracebackType
from typing import Self

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)

from pocketfed.simulator.terminal import Terminal


class OneBar:
    """A spinner, what is being done, a bar, a count and a clock; there while this is entered, then gone."""

    def __init__(self, console: Terminal) -> None:
        """Prepare; nothing is shown yet."""
        self._console = console
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
            transient=True,
        )
        self._task = self._progress.add_task("starting", total=None)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def phase(self, text: str) -> None:
        """Say what is being done; in a line of its own where there is no bar."""
        self._progress.update(self._task, description=text)
        if not self._console.is_terminal:
            self._console.print(text, soft_wrap=True)

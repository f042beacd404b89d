"""Where commands say things: to a person, in words that are partly those of others."""

from collections.abc import Callable, Iterable
from typing import IO

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.status import Status
from rich.text import Text

from pocketfed.core.visible import visible


class Terminal(Console):
    """A console that shows text as it is: brackets in a path or the name of a class are no markup, colons no emoji, and
    nothing that a bundle, a folder or a server says is a command to the terminal."""

    def __init__(
        self, *, stderr: bool = False, file: IO[str] | None = None, width: int | None = None,
        force_terminal: bool | None = None,
    ) -> None:  # fmt: skip
        super().__init__(
            stderr=stderr, file=file, width=width, force_terminal=force_terminal, markup=False, emoji=False,
            highlight=False,
        )  # fmt: skip

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """See `Console`."""
        for segment in super().render(renderable, options):
            text, style, control = segment
            yield segment if control else Segment(visible(text, keep="\n"), style)


def telling(status: Status) -> Callable[[str], None]:
    """What changes the words beside a spinner, which rich would take for markup."""
    return lambda words: status.update(Text(words))

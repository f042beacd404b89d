"""A phone's events as lines: on the terminal, and in a file of bounded size."""

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from logging.handlers import RotatingFileHandler
from pathlib import Path

from rich.console import Console
from rich.text import Text

from pocketfed.core.visible import visible
from pocketfed.mobile_client.flower.home import writing

MAX_BYTES = 1_000_000
COLOURS = {logging.WARNING: "yellow", logging.ERROR: "red"}


class ConsoleHandler(logging.Handler):
    """One line an event: when, what; a colour if it is bad news."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        """See `logging.Handler`."""
        line = Text(f"{time.strftime('%H:%M:%S', time.localtime(record.created))}  ", style="dim")
        line.append(record.getMessage(), style=f"not dim {COLOURS.get(record.levelno, '')}".strip())
        self._console.print(line, soft_wrap=True, highlight=False)


class FileHandler(RotatingFileHandler):
    """The file. What a full disk does not take is on the console only, where each failure would be a traceback."""

    def handleError(self, record: logging.LogRecord) -> None:
        """See `logging.Handler`."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)

    def close(self) -> None:
        """See `logging.Handler`; the last lines may not have been written yet."""
        with suppress(OSError):
            super().close()


def printable(record: logging.LogRecord) -> bool:
    """A filter that lets everything pass, but no control characters: some of what is logged comes from a server."""
    record.msg = visible(record.getMessage())
    record.args = ()
    return True


@contextmanager
def show_log(console: Console, file: Path) -> Iterator[logging.Logger]:
    """Let everything that a phone logs appear on the console and in a file, as long as the context lasts.

    Raises:
        HomeError: there can be no such file.
    """
    log = logging.getLogger("pocketfed.mobile_client")
    with writing(file):
        to_file = FileHandler(file, maxBytes=MAX_BYTES, backupCount=1)
    to_file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    handlers = [ConsoleHandler(console), to_file]
    level, propagate = log.level, log.propagate
    log.setLevel(logging.INFO)
    log.propagate = False  # a library may have set up the root logger, and everything would appear twice
    for handler in handlers:
        handler.addFilter(printable)
        log.addHandler(handler)
    try:
        yield log
    finally:
        log.setLevel(level)
        log.propagate = propagate
        for handler in handlers:
            log.removeHandler(handler)
            handler.close()

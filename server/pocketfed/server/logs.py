"""Structured logs: every line has a message and fields, as text for a person or as JSON for a machine.

Fields are what `logging` calls extras: `log.info("round finished", extra={"round": 7})`.
"""

import contextlib
import json
import logging
import math
import sys
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console
from rich.text import Text

from pocketfed.core.errors import ServerError
from pocketfed.core.visible import visible
from pocketfed.server.watch.records import printable

LOGGER = "pocketfed"

TALKATIVE = (
    "flwr",
    "uvicorn",
    "uvicorn.access",
    "uvicorn.error",
    "alembic",
    "sqlalchemy",
    "httpx",
    "httpcore",
    "ray",
)
"""Loggers of others: their warnings and errors appear among ours, their chatter does not."""

FILE_BYTES, FILES = 10_000_000, 5

_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "color_message"}

_STYLES = {"WARNING": "yellow", "ERROR": "bold red", "CRITICAL": "bold red"}


class LogFormat(StrEnum):
    """How lines on standard error look."""

    TEXT = "text"
    JSON = "json"


def fields_of(record: logging.LogRecord) -> dict[str, Any]:
    """The extras of a record, without what other packages attach to every record of the process (Ray does)."""
    return {
        name: value
        for name, value in record.__dict__.items()
        if name not in _STANDARD and not name.startswith("_")
    }


class JsonLines(logging.Formatter):
    """One JSON object a line: `time` (UTC), `level`, `logger`, `message`, the fields, and `error` with a traceback."""

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter`."""
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= {name: _plain(value) for name, value in fields_of(record).items() if name not in line}
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class TextLines(logging.Handler):
    """Time, level, message, and fields as `name=value`; in colours where standard error is a terminal."""

    def __init__(self, stream: TextIO | None = None) -> None:
        super().__init__()
        self._console = Console(file=stream, stderr=stream is None)

    def emit(self, record: logging.LogRecord) -> None:
        """See `logging.Handler`."""
        try:
            line = Text(time.strftime("%H:%M:%S ", time.localtime(record.created)), style="dim")
            style = _STYLES.get(record.levelname, "")
            line.append(f"{record.levelname.lower():7} ", style=style or "cyan")
            line.append(printable(record.getMessage(), 2000), style=style)
            for name, value in fields_of(record).items():
                line.append(f" {name}=", style="dim").append(_shown(value), style="")
            if record.exc_info:
                line.append("\n" + _trace(record))
            # One line each, however narrow the terminal: lines are searched.
            self._console.print(line, soft_wrap=True, highlight=False)
        except (
            OSError,
            ValueError,
            TypeError,
        ):  # a closed stream, or a message that its arguments do not fit
            self.handleError(record)


class QuietFile(RotatingFileHandler):
    """A rotating file whose own failure, such as a full disk, is reported once and stops nothing."""

    _reported = False

    def handleError(self, record: logging.LogRecord) -> None:
        """See `logging.Handler`."""
        if not self._reported:
            self._reported = True
            print(f"{self.baseFilename} cannot be written: {sys.exc_info()[1]}", file=sys.stderr)

    def close(self) -> None:
        """See `logging.Handler`; what could not be written before cannot be written now either."""
        with contextlib.suppress(OSError):
            super().close()


@contextlib.contextmanager
def structured_logs(
    style: LogFormat = LogFormat.TEXT, folder: Path | None = None, *, stream: TextIO | None = None
) -> Iterator[logging.Logger]:
    """Send all logs to standard error, and as JSON lines to `folder`/server.log too, until the block ends.

    Args:
        style: of the lines on standard error.
        folder: of a file of at most 10 MB, with four older ones beside it; made if it is not there.
        stream: in place of standard error.

    Raises:
        ServerError: the file cannot be written.
    """
    handlers: list[logging.Handler] = []
    if style is LogFormat.JSON:
        handlers.append(logging.StreamHandler(stream))
        handlers[0].setFormatter(JsonLines())
    else:
        handlers.append(TextLines(stream))
    if folder is not None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            file = QuietFile(
                folder / "server.log", maxBytes=FILE_BYTES, backupCount=FILES - 1, encoding="utf-8"
            )
        except OSError as error:
            raise ServerError(f"{folder}/server.log cannot be written ({error.strerror})") from error
        file.setFormatter(JsonLines())
        handlers.append(file)
    with contextlib.ExitStack() as undo:
        _take_over(handlers, undo)
        yield logging.getLogger(LOGGER)


def _take_over(handlers: Sequence[logging.Handler], undo: contextlib.ExitStack) -> None:
    """Make the handlers the only ones, and leave everything as it was when the stack unwinds."""
    root = logging.getLogger()
    for name in ("", LOGGER, *TALKATIVE):
        logger = logging.getLogger(name)
        undo.callback(_put_back, logger, logger.handlers[:], logger.level, logger.propagate, logger.disabled)
        logger.handlers[:] = []
        logger.propagate, logger.disabled = True, False
        logger.setLevel(logging.WARNING if name in TALKATIVE else logging.INFO)
    root.handlers[:] = list(handlers)
    for handler in handlers:
        undo.callback(handler.close)


def _put_back(
    logger: logging.Logger, handlers: list[logging.Handler], level: int, propagate: bool, disabled: bool
) -> None:
    logger.handlers[:] = handlers
    logger.setLevel(level)
    logger.propagate, logger.disabled = propagate, disabled


def _plain(value: object) -> object:
    """JSON has no word for a number that is not finite."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _trace(record: logging.LogRecord) -> str:
    """The traceback with its indentation, without control characters that an error may quote."""
    lines = logging.Formatter().formatException(record.exc_info).rstrip() if record.exc_info else ""
    return visible(lines, keep="\n")


def _shown(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    text = printable(str(value))
    return json.dumps(text, ensure_ascii=False) if " " in text or not text else text

"""Connections that are opened for nothing: how long they last, and how many there may be.

A connection costs a file and memory, whoever opens it, and the process needs files for its checkpoints, too.
"""

import asyncio
import sys
from contextlib import suppress
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

if sys.platform != "win32":
    import resource

BEGIN_WITHIN = 10.0
"""Seconds from a connection, or from the first bytes of a later request, to the end of the request's head."""

OTHER_FILES = 256
"""Open files that are not connections: the database, checkpoints, libraries, logs."""


def allow_many_connections() -> None:
    """Let this process open as many files as the system lets it, which is more than it gives unasked."""
    if sys.platform != "win32":
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        with suppress(ValueError, OSError):  # macOS says "no limit", and means 10,240
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def most_connections() -> int:
    """Connections that leave this process enough files for everything else."""
    if sys.platform == "win32":
        return sys.maxsize
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return sys.maxsize if files == resource.RLIM_INFINITY else files - min(OTHER_FILES, files // 2)


class Connection(HttpToolsProtocol):
    """uvicorn's, but it ends when what comes is no request for `BEGIN_WITHIN` seconds, or when there are enough others.

    uvicorn bounds only the time between two requests. That between the pieces of a body is `BoundedBody`'s.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._giving_up: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """See asyncio."""
        super().connection_made(transport)
        if len(self.connections) > most_connections():
            transport.abort()
        else:
            self._look()

    def data_received(self, data: bytes) -> None:
        """See asyncio."""
        super().data_received(data)
        self._look()

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio."""
        super().connection_lost(exc)
        self._calm_down()

    def _look(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            self._calm_down()
        elif self._giving_up is None:
            self._giving_up = self.loop.call_later(BEGIN_WITHIN, self.transport.abort)

    def _calm_down(self) -> None:
        if self._giving_up is not None:
            self._giving_up.cancel()
            self._giving_up = None

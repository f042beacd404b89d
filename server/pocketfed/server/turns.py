"""Large calls take turns, so that the memory of a server does not grow with the number of its phones."""

import asyncio
from collections.abc import Collection

from starlette.types import ASGIApp, Message, Receive, Scope, Send

PIECE = 1 << 16
"""Bytes of an answer that are handed over at once."""


class Turns:
    """ASGI middleware that lets through a bounded number of requests to some paths at a time.

    A request that waits is not read beyond what the connection holds anyway, and nothing has been prepared for it. An
    answer is handed over in pieces, so that a turn lasts until the phone has taken nearly all of it. Slow phones hold
    up nobody for long: a request that has waited for `patience` goes ahead.
    """

    def __init__(self, app: ASGIApp, paths: Collection[str], most: int = 16, patience: float = 5.0) -> None:
        """Wrap an application.

        Args:
            app: ASGI.
            paths: of the requests that take turns.
            most: requests at a time.
            patience: seconds that a request waits for its turn at most.
        """
        self._app, self._paths, self._patience = app, frozenset(paths), patience
        self._free = asyncio.Semaphore(most)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http" or scope["path"] not in self._paths:
            await self._app(scope, receive, send)
            return
        has_turn = await self._wait()
        try:
            await self._app(scope, receive, _in_pieces(send))
        finally:
            if has_turn:
                self._free.release()

    async def _wait(self) -> bool:
        try:
            async with asyncio.timeout(self._patience):
                return await self._free.acquire()
        except TimeoutError:
            return False


def _in_pieces(send: Send) -> Send:
    """Hand over bodies piece by piece: between two of them, uvicorn waits until the connection takes more."""

    async def sending(message: Message) -> None:
        body = message.get("body", b"")
        for start in range(0, len(body) - PIECE, PIECE):
            await send({"type": message["type"], "body": body[start : start + PIECE], "more_body": True})
        rest = (len(body) - 1) // PIECE * PIECE if body else 0
        await send({**message, "body": body[rest:]} if rest else message)

    return sending

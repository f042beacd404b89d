"""Large calls take turns, so that the memory of a server does not grow with the number of its phones."""

import asyncio
from collections.abc import Collection
from contextlib import AsyncExitStack

from starlette.types import ASGIApp, Message, Receive, Scope, Send

PIECE = 1 << 14
"""Bytes of an answer that are handed over at once. A connection keeps a buffer of about that size (tls_buffers)."""


class Turns:
    """ASGI middleware that lets through a bounded number of requests to some paths at a time.

    A request that waits is not read beyond what the connection holds anyway, and nothing has been prepared for it. An
    answer is handed over in pieces, so that a turn lasts until the phone has taken nearly all of it. Slow phones hold
    up nobody for long: after `longest` seconds, or when the rest of a body has been waited for for `patience` seconds in
    all, a turn is the next one's, and the slow phone goes on without.
    """

    def __init__(
        self,
        app: ASGIApp,
        paths: Collection[str],
        most: int = 16,
        longest: float = 5.0,
        patience: float = 0.5,
    ) -> None:
        """Wrap an application.

        Args:
            app: ASGI.
            paths: how those of the requests begin that take turns.
            most: requests at a time.
            longest: seconds that a turn lasts at most.
            patience: of these, seconds without a byte of the request's body.
        """
        self._app, self._paths, self._longest, self._patience = app, tuple(paths), longest, patience
        self._free = asyncio.Semaphore(most)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http" or not scope["path"].startswith(self._paths):
            await self._app(scope, receive, send)
            return
        async with AsyncExitStack() as stack:
            await self._free.acquire()
            turn = _Turn(self._free)
            stack.callback(turn.end)
            stack.callback(asyncio.get_running_loop().call_later(self._longest, turn.end).cancel)
            await self._app(scope, _patiently(receive, turn, self._patience), _in_pieces(send))


class _Turn:
    """Ends once, by its request or by its time."""

    def __init__(self, free: asyncio.Semaphore) -> None:
        self._free, self._is_over = free, False

    def end(self) -> None:
        if not self._is_over:
            self._is_over = True
            self._free.release()


def _patiently(receive: Receive, turn: _Turn, patience: float) -> Receive:
    """End the turn of a request when its body has been waited for for so long in all."""
    loop, left, complete = asyncio.get_running_loop(), patience, False

    async def receiving() -> Message:
        nonlocal left, complete
        if complete:  # from here on, it is asked whether the client is still there
            return await receive()
        began = loop.time()
        over = loop.call_later(max(left, 0), turn.end)
        try:
            message = await receive()
        finally:
            over.cancel()
            left -= loop.time() - began
        complete = not message.get("more_body", False)
        return message

    return receiving


def _in_pieces(send: Send) -> Send:
    """Hand over bodies piece by piece: between two of them, uvicorn waits until the connection takes more."""

    async def sending(message: Message) -> None:
        body = message.get("body", b"")
        for start in range(0, len(body) - PIECE, PIECE):
            await send({"type": message["type"], "body": body[start : start + PIECE], "more_body": True})
        rest = (len(body) - 1) // PIECE * PIECE if body else 0
        await send({**message, "body": body[rest:]} if rest else message)

    return sending

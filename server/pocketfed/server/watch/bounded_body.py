"""Bounds on what requests may send, kept before anything is parsed or stored, and before anybody knows who sends it."""

import asyncio
import json
from collections.abc import Mapping
from typing import NoReturn

from starlette.types import ASGIApp, Message, Receive, Scope, Send

STALL = 30.0
"""Seconds without a byte after which a body that is not complete is given up."""

AT_ONCE = 32
"""Largest bodies that may be held together, complete or not."""


class _Refused(Exception):
    """Unwinds the application that is reading a body which is refused."""


class BoundedBody:
    """ASGI middleware that answers 413 to a body that is too large, announced or streamed; 408 to one that stands still;
    and 503 while the bodies of all requests together are too large, after which phones come again.

    The answers are JSON, `{"code": 413, "detail": ...}`, as Flower's own errors are.
    """

    def __init__(
        self, app: ASGIApp, most: int, large: Mapping[str, int] | None = None, stall: float = STALL
    ) -> None:
        """Wrap an application.

        Args:
            app: ASGI.
            most: bytes of a body.
            large: bytes of a body for some paths, in place of `most`.
            stall: seconds that a body may take from one piece to the next.
        """
        self._app, self._most, self._large, self._stall = app, most, large or {}, stall
        self._together = AT_ONCE * max([most, *self._large.values()])
        self._held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        most = self._large.get(scope["path"], self._most)
        if _announced(scope) > most:
            await _refuse(send, 413, _too_large(most))
        else:
            await self._bounded(scope, receive, send, most)

    async def _bounded(self, scope: Scope, receive: Receive, send: Send, most: int) -> None:
        read, complete, begun, refused = 0, False, False, False

        async def refuse(status: int, detail: str) -> NoReturn:
            nonlocal refused
            if not refused and not begun:
                await _refuse(send, status, detail)
            refused = True
            raise _Refused

        async def counting() -> Message:
            nonlocal read, complete
            if complete:  # from here on, it is asked whether the client is still there
                return await receive()
            try:
                message = await asyncio.wait_for(receive(), self._stall)
            except TimeoutError:
                await refuse(408, f"The body has stood still for {self._stall:g} seconds.")
            if message["type"] == "http.request":
                size = len(message.get("body", b""))
                read, self._held = read + size, self._held + size
                complete = not message.get("more_body", False)
                if read > most:
                    await refuse(413, _too_large(most))
                if self._held > self._together:
                    await refuse(503, "Too much is being sent at once.")
            return message

        async def forwarding(message: Message) -> None:
            nonlocal begun
            if refused:  # whatever the application says now, the answer has been given
                return
            begun = True
            await send(message)

        try:
            await self._app(scope, counting, forwarding)
        except Exception:
            if not refused:  # otherwise it is ours, or what the application made of it
                raise
        finally:
            self._held -= read


def _announced(scope: Scope) -> int:
    for name, value in scope["headers"]:
        if name == b"content-length":
            return int(value) if value.isdigit() and len(value) < 20 else 0
    return 0


def _too_large(most: int) -> str:
    return f"The body is larger than the {most} bytes that this server accepts."


async def _refuse(send: Send, status: int, detail: str) -> None:
    body = json.dumps({"code": status, "detail": detail}).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),  # the rest of the body is not wanted
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})

"""Bounds on what requests may send, kept before anything is parsed or stored."""

import asyncio
import json
from collections.abc import Mapping

from starlette.types import ASGIApp, Message, Receive, Scope, Send

STALL = 30.0
"""Seconds without a byte after which a body that is not complete is given up; a small one has no more in all."""

LONGEST = 180.0
"""Seconds that a large body may take. Flower takes no answer whose upload takes longer."""

AT_ONCE = 32
"""Largest bodies that may be held together, complete or not."""


class _Kind:
    """Bodies that share a bound, and what they hold together."""

    def __init__(self, most: int, longest: float) -> None:
        self.most, self.longest = most, longest
        self.held = 0

    @property
    def is_full(self) -> bool:
        return self.held > AT_ONCE * self.most


class BoundedBody:
    """ASGI middleware that answers 413 to a body that is too large, announced or streamed; 408 to one that stands still
    or takes too long; and 503 while bodies of its kind are too large together, after which phones come again.

    Small bodies and large ones are kinds of their own: weights that are under way keep no sign of life out.

    The answers are JSON, `{"code": 413, "detail": ...}`, as Flower's own errors are. The application that was reading a
    body which is refused is told that the client went away.
    """

    def __init__(
        self,
        app: ASGIApp,
        most: int,
        large: Mapping[str, int] | None = None,
        stall: float = STALL,
        longest: float = LONGEST,
    ) -> None:
        """Wrap an application.

        Args:
            app: ASGI.
            most: bytes of a body.
            large: bytes of a body for some paths, in place of `most`.
            stall: seconds that a body may take from one piece to the next; a small one, in all.
            longest: seconds that a large body may take.
        """
        self._app, self._stall = app, stall
        self._small = _Kind(most, stall)
        self._large = {path: _Kind(size, longest) for path, size in (large or {}).items()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        kind = self._large.get(scope["path"], self._small)
        if _announced(scope) > kind.most:
            await _refuse(send, 413, _too_large(kind.most))
        else:
            await self._bounded(scope, receive, send, kind)

    async def _bounded(self, scope: Scope, receive: Receive, send: Send, kind: _Kind) -> None:
        read, complete, begun, refused = 0, False, False, False
        clock = asyncio.get_running_loop().time
        until = clock() + kind.longest

        async def refuse(status: int, detail: str) -> Message:
            nonlocal refused
            if not refused and not begun:
                await _refuse(send, status, detail)
            refused = True
            return {"type": "http.disconnect"}

        async def counting() -> Message:
            nonlocal read, complete
            if complete:  # from here on, it is asked whether the client is still there
                return await receive()
            if refused:
                return {"type": "http.disconnect"}
            try:
                message = await asyncio.wait_for(receive(), min(self._stall, until - clock()))
            except TimeoutError:
                return await refuse(408, _too_slow(self._stall, kind.longest))
            if message["type"] == "http.request":
                size = len(message.get("body", b""))
                read, kind.held = read + size, kind.held + size
                complete = not message.get("more_body", False)
                if read > kind.most:
                    return await refuse(413, _too_large(kind.most))
                if kind.is_full:
                    return await refuse(503, "Too much is being sent at once.")
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
            if not refused:  # otherwise it is what the application makes of a client that went away
                raise
        finally:
            kind.held -= read


def _announced(scope: Scope) -> int:
    for name, value in scope["headers"]:
        if name == b"content-length":
            return int(value) if value.isdigit() and len(value) < 20 else 0
    return 0


def _too_large(most: int) -> str:
    return f"The body is larger than the {most} bytes that this server accepts."


def _too_slow(stall: float, longest: float) -> str:
    return (
        f"The body comes too slowly: it may stand still for {stall:g} seconds, and take {longest:g} in all."
    )


async def _refuse(send: Send, status: int, detail: str) -> None:
    body = json.dumps({"code": status, "detail": detail}).encode()
    headers = [
        (b"content-type", b"application/json"),
        # The rest of the body is not wanted, but if the connection were closed at once, the answer might be lost on the
        # way; what still comes is dropped, and not for long (connections.py).
        (b"content-length", str(len(body)).encode()),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})

"""A bound on what one request may send, kept before anything is parsed or stored."""

import json

from starlette.types import ASGIApp, Message, Receive, Scope, Send


class _TooLarge(Exception):
    """Unwinds the application that is reading a body beyond the bound."""


class BoundedBody:
    """ASGI middleware that answers 413 to a body beyond `most` bytes, announced or streamed.

    The answer is JSON, `{"code": 413, "detail": ...}`, as Flower's own errors are.
    """

    def __init__(self, app: ASGIApp, most: int) -> None:
        self._app, self._most = app, most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
        elif self._announced(scope) > self._most:
            await self._refuse(send)
        else:
            await self._bounded(scope, receive, send)

    async def _bounded(self, scope: Scope, receive: Receive, send: Send) -> None:
        read, begun, refused = 0, False, False

        async def counting() -> Message:
            nonlocal read, refused
            message = await receive()
            if message["type"] == "http.request":
                read += len(message.get("body", b""))
                if read > self._most:
                    if not refused and not begun:
                        await self._refuse(send)
                    refused = True
                    raise _TooLarge
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

    @staticmethod
    def _announced(scope: Scope) -> int:
        for name, value in scope["headers"]:
            if name == b"content-length":
                return int(value) if value.isdigit() and len(value) < 20 else 0
        return 0

    async def _refuse(self, send: Send) -> None:
        detail = f"The body is larger than the {self._most} bytes that this server accepts."
        body = json.dumps({"code": 413, "detail": detail}).encode()
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (b"connection", b"close"),  # the rest of the body is not wanted
        ]
        await send({"type": "http.response.start", "status": 413, "headers": headers})
        await send({"type": "http.response.body", "body": body})

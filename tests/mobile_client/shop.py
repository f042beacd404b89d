"""A server that offers bundles on loopback, and a network on which things happen to them."""

import contextlib
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from starlette.applications import Starlette
from starlette.types import Message, Receive, Scope, Send

from pocketfed.core.bundle import Bundle
from pocketfed.server.offering import bundle_routes
from tests.server.serving import serving


class Cut(Exception):
    """The connection ends here."""


@dataclass
class Shop:
    """What is offered, and what happens on the way.

    Attributes:
        url: where it is.
        asked: every request for a file: its name, and the range that was asked for.
        sent: bytes of files that were sent.
        alter: what becomes of a body: (the path, the body) -> another body; lengths are announced as they were.
        cut: after how many bytes a connection ends, by the name of the file.
        status: answers everything, in place of what is offered.
    """

    url: str = ""
    asked: list[tuple[str, str]] = field(default_factory=list)
    sent: int = 0
    alter: Callable[[str, bytes], bytes] = lambda path, body: body
    cut: dict[str, int] = field(default_factory=dict)
    status: int | None = None
    _app: Starlette = field(default_factory=Starlette)

    def offer(self, bundle: Bundle) -> None:
        self._app = Starlette(routes=bundle_routes(bundle))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        name = path.split("/", 3)[-1] if path.startswith("/bundles/") else ""
        if name:
            headers = {key.decode(): value.decode() for key, value in scope["headers"]}
            self.asked.append((name, headers.get("range", "")))
        left = self.cut.get(name)

        async def sending(message: Message) -> None:
            nonlocal left
            if message["type"] == "http.response.start" and self.status is not None:
                message = {**message, "status": self.status}
            if message["type"] == "http.response.body":
                body = self.alter(path, message.get("body", b""))
                if left is not None:
                    body, left = body[:left], left - len(body)
                self.sent += len(body) if name else 0
                more = left is not None or message.get("more_body", False)
                await send({**message, "body": body, "more_body": more})
                if left is not None and left <= 0:
                    raise Cut
                return
            await send(message)

        await self._app(scope, receive, sending)


@contextlib.contextmanager
def open_shop() -> Iterator[Shop]:
    """A shop that offers nothing yet."""
    shop, noisy = Shop(), logging.getLogger("uvicorn.error")
    before, noisy.disabled = noisy.disabled, True  # it says of each cut that the application failed
    try:
        with serving(shop) as port:
            shop.url = f"http://127.0.0.1:{port}"
            yield shop
    finally:
        noisy.disabled = before

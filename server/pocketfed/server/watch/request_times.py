"""How long requests take, by name, measured around the whole application."""

import time
from collections.abc import Mapping
from types import MappingProxyType

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pocketfed.server.watch.metrics import Metrics

CALLS: Mapping[str, str] = MappingProxyType(
    {
        **{
            f"/v1/fleet/{name}": name
            for name in (
                "register-node", "activate-node", "deactivate-node", "unregister-node", "send-node-heartbeat",
                "pull-messages", "push-messages", "pull-object", "push-object", "confirm-message-received",
                "get-run", "get-fab",
            )
        },
        "/bundle": "bundle",
        "/": "page",
        "/metrics": "metrics",
        "/healthz": "healthz",
    }
)  # fmt: skip
"""Names of requests by their path; those of phones are Flower's. Every other path is `other`."""


class RequestTimes:
    """ASGI middleware; adds a clock reading and one observation to a request."""

    def __init__(self, app: ASGIApp, metrics: Metrics, calls: Mapping[str, str] = CALLS) -> None:
        self._app, self._metrics, self._calls = app, metrics, calls

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI. A request that ends without an answer has the status `none`."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = time.perf_counter(), "none"

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = str(message["status"])
            await send(message)

        try:
            await self._app(scope, receive, noting)
        finally:
            self._metrics.request(
                self._calls.get(scope["path"], "other"), status, time.perf_counter() - started
            )

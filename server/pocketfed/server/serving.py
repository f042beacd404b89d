"""An application on uvicorn, in a thread of this process."""

import asyncio
import os
import socket
import ssl
import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import uvicorn
from anyio import to_thread
from cryptography import x509

from pocketfed.core.errors import KeyFileError, ServerError
from pocketfed.server.connections import Connection
from pocketfed.server.tls_buffers import keep_tls_buffers_small

START_WITHIN = 30.0
"""Seconds."""

STOP_WITHIN = 5
"""Seconds that requests under way get when the server stops."""

THREADS = 8
"""That answer requests. They mostly wait for one another, as there is one database, and each takes memory."""


@dataclass(frozen=True)
class Tls:
    """Files of a server's identity, PEM.

    Attributes:
        certificate: the server's, then those between it and the authority that phones trust.
        key: private.
    """

    certificate: Path
    key: Path

    def check(self) -> datetime:
        """Load them once, to say clearly what is wrong; until when the server's certificate is good.

        Raises:
            KeyFileError: a file is missing or damaged, they do not belong together, or the certificate is not good at this
                time, so that every phone would refuse it.
        """
        for path in (self.certificate, self.key):
            if not os.path.isfile(path):
                raise KeyFileError(f"{path} is no file; make a certificate with: pocketfed certs DIR")
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(self.certificate, self.key)
        except (ssl.SSLError, OSError) as error:
            raise KeyFileError(
                f"{self.certificate} and {self.key} are no certificate with its key ({error}); "
                "make them with: pocketfed certs DIR"
            ) from error
        own, now = x509.load_pem_x509_certificate(self.certificate.read_bytes()), datetime.now(UTC)
        for wrong, when in (
            (own.not_valid_after_utc < now, f"ended on {own.not_valid_after_utc:%Y-%m-%d %H:%M} UTC"),
            (own.not_valid_before_utc > now, f"begins on {own.not_valid_before_utc:%Y-%m-%d %H:%M} UTC"),
        ):
            if wrong:
                raise KeyFileError(
                    f"{self.certificate} {when}, it is {now:%Y-%m-%d %H:%M}, and every phone would refuse it; renew it "
                    "(pocketfed certs DIR --renew), or set this machine's clock"
                )
        return own.not_valid_after_utc


class Serving:
    """Serves from when it is entered until it is left. Use it as a context manager."""

    def __init__(self, app: Any, host: str, port: int, tls: Tls | None) -> None:
        """Prepare.

        Args:
            app: ASGI.
            host: address to listen at.
            port: 0 takes one that is free.
            tls: None serves plain HTTP.

        Raises:
            KeyFileError: see `Tls.check`.
            ServerError: the address cannot be listened at.
        """
        if tls is not None:
            tls.check()
            keep_tls_buffers_small()
        try:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            self._socket = socket.create_server((host, port), family=family, backlog=1024)
        except (OSError, OverflowError) as error:
            raise ServerError(
                f"cannot listen at {authority(host, port)} ({error}); choose another --host or --port"
            ) from error
        self.port: int = self._socket.getsockname()[1]
        self._scheme, self._host = ("https" if tls else "http"), host
        self._server = uvicorn.Server(
            uvicorn.Config(
                app,
                loop="asyncio",  # see tls_buffers
                http=Connection,
                log_config=None,
                access_log=False,
                lifespan="off",
                ws="none",
                timeout_keep_alive=75,
                timeout_graceful_shutdown=STOP_WITHIN,
                ssl_certfile=tls.certificate if tls else None,
                ssl_keyfile=tls.key if tls else None,
            )
        )
        self._thread = threading.Thread(target=self._run, name="serving", daemon=True)

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=self._server.config.get_loop_factory()) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        to_thread.current_default_thread_limiter().total_tokens = THREADS
        await self._server.serve(sockets=[self._socket])

    @property
    def url(self) -> str:
        """Where it can be reached from this machine."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self._host, self._host)
        return f"{self._scheme}://{authority(host, self.port)}"

    def __enter__(self) -> Self:
        self._thread.start()
        until = time.monotonic() + START_WITHIN
        while not self._server.started:
            if not self._thread.is_alive() or time.monotonic() > until:
                raise ServerError(f"the server at {self.url} did not start; its log says why")
            time.sleep(0.01)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.should_exit = True
        self._thread.join(2 * STOP_WITHIN)
        self._socket.close()


def authority(host: str, port: int) -> str:
    """Host and port as they stand in an address: colons of IPv6 are in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

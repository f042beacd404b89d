"""One call of the Fleet API: protobuf there and back over HTTP, signed, bounded, and tried again where that may help."""

import json
import logging
import random
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import httpx
from google.protobuf.message import DecodeError

from pocketfed.core.errors import CallRefused, KeyFileError, MalformedObject, ServerError, Unreachable
from pocketfed.mobile_client.flower.clock import COARSE_TOLERANCE, TOLERANCE, ServerClock
from pocketfed.mobile_client.flower.key import PhoneKey

MEDIA_TYPE = "application/protobuf"
TRY_AGAIN = (429, 502, 503, 504)
MAX_ERROR = 4096
"""Bytes of an error that are read."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Retry:
    """How a call is tried again: waits are random up to a bound that doubles, so that phones do not march in step.

    Attributes:
        tries: in all.
        first: seconds; the bound of the first wait.
        most: seconds; no bound is greater.
    """

    tries: int = 4
    first: float = 0.5
    most: float = 8.0

    def wait(self, attempt: int) -> float:
        """Seconds to wait after the attempt with this number, from 0."""
        return random.uniform(0, min(self.most, self.first * 2**attempt))


def trust(ca: Path | None) -> ssl.SSLContext:
    """Whom to trust: one certificate authority, or those of the system.

    Raises:
        KeyFileError: the file holds no certificate.
    """
    try:
        return ssl.create_default_context(cafile=ca)
    except (OSError, ssl.SSLError) as error:
        raise KeyFileError(f"{ca} holds no certificate that can be read ({error})") from error


def open_client(verify: ssl.SSLContext | None, transport: httpx.BaseTransport | None) -> httpx.Client:
    """Connections to one server; `transport` takes the place of the network, if it is given."""
    return httpx.Client(
        # Without `verify` there is no TLS, and loading the system's authorities would be for nothing.
        verify=verify or ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
        timeout=httpx.Timeout(30.0, connect=10.0),
        # Servers close idle connections after five seconds; a request must not meet that.
        limits=httpx.Limits(max_connections=4, keepalive_expiry=3.0),
        trust_env=False,
        transport=transport,
    )


class Caller:
    """Makes calls to one server as one phone; may be used from several threads."""

    def __init__(
        self,
        server: str,
        key: PhoneKey,
        clock: ServerClock | None = None,
        verify: ssl.SSLContext | None = None,
        max_answer: int = 2**28,
        retry: Retry | None = None,
        transport: httpx.BaseTransport | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Nothing is sent yet.

        Args:
            server: `http(s)://host:port`.
            key: of the phone.
            clock: its idea of the server's time.
            verify: whom to trust, for https.
            max_answer: bytes that an answer may have.
            retry: how to try again.
            transport: in place of the network.
            sleep: waits so many seconds.
        """
        self.server, self.key, self.clock = server.rstrip("/"), key, clock or ServerClock()
        self.count: Counter[str] = Counter()  # requests sent, by call
        self._max_answer, self._retry, self._sleep = max_answer, retry or Retry(), sleep
        self._lock = threading.Lock()
        self._client = open_client(verify, transport)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    def call(self, name: str, request: Any, response: Any, tries: int | None = None) -> Any:
        """Make a call.

        Args:
            name: `pull-messages` and the like.
            request: its message.
            response: class of the answer.
            tries: in place of the usual number.

        Raises:
            Unreachable: no answer, however often it was tried.
            CallRefused: the server answered with an error.
            ServerError: this server will never do: its certificate is not trusted, or it is no Flower server.
            MalformedObject: the answer is larger than agreed.
        """
        body = request.SerializeToString()
        last = (tries or self._retry.tries) - 1
        for attempt in range(last + 1):
            try:
                status, date, content = self._send(name, body)
                if self._clock_was_wrong(status, date):
                    status, _, content = self._send(name, body)
                if status not in TRY_AGAIN:
                    return self._answer(name, status, content, response)
                failure = f"{self.server} answers {name} with HTTP {status}"
            except httpx.TransportError as error:
                raise_if_hopeless(self.server, error)
                failure = f"{self.server} cannot be reached ({error or type(error).__name__})"
            if attempt < last:
                self._sleep(self._retry.wait(attempt))
        raise Unreachable(failure)

    def _clock_was_wrong(self, status: int, date: str | None) -> bool:
        """Whether a refusal may have come from this phone's clock, which goes by the server's from now on."""
        refused = status == 401
        corrected = self.clock.correct(date, TOLERANCE if refused else COARSE_TOLERANCE)
        if corrected:
            log.warning("this phone's clock is %+.0f s off; going by the server's", -self.clock.offset)
        return refused and corrected

    def _send(self, name: str, body: bytes) -> tuple[int, str | None, bytes]:
        headers = self.key.headers(self.clock.now())
        headers |= {"content-type": MEDIA_TYPE, "accept": MEDIA_TYPE, "accept-encoding": "identity"}
        with self._lock:
            self.count[name] += 1
        url = f"{self.server}/v1/fleet/{name}"
        with self._client.stream("POST", url, content=body, headers=headers) as response:
            limit = self._max_answer if response.status_code == 200 else MAX_ERROR
            content = bytearray()
            for piece in response.iter_raw():
                content += piece
                if len(content) > limit:
                    if response.status_code == 200:
                        raise MalformedObject(f"{name} is answered with more than {limit} bytes")
                    break
            return response.status_code, response.headers.get("date"), bytes(content)

    def _answer(self, name: str, status: int, content: bytes, response: Any) -> Any:
        if status == 200:
            try:
                return response.FromString(content)
            except DecodeError as error:
                raise ServerError(
                    f"{self.server} is no Flower server: {name} is answered otherwise"
                ) from error
        if status < 400 or status in (404, 405):
            raise ServerError(f"{self.server} is no Flower server: it has no call {name} (HTTP {status})")
        raise CallRefused(name, status, *_read_error(content))


def _read_error(content: bytes) -> tuple[int, str]:
    """Code and detail of Flower's errors; anything else is its own detail."""
    try:
        values = json.loads(content)
        code, detail = values.get("code", 0), values["detail"]
        if type(code) is int and isinstance(detail, str):
            return code, detail
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        pass
    return 0, content[:200].decode(errors="replace") or "no reason given"


def raise_if_hopeless(server: str, error: BaseException) -> None:
    """Certificates and protocols do not get better by waiting.

    Raises:
        ServerError: this server will never do.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            raise ServerError(
                f"{server} has a certificate that this phone does not trust ({cause.verify_message}); name the "
                "server's authority with --ca, and the server as its certificate names it"
            ) from error
        if isinstance(cause, ssl.SSLError) and "WRONG_VERSION_NUMBER" in str(cause):
            raise ServerError(f"{server} does not speak TLS; is it http:// ?") from error
        cause = cause.__cause__ or cause.__context__
    if isinstance(error, httpx.UnsupportedProtocol):
        raise ServerError(f"{server} is no http:// or https:// address") from error
    dropped = isinstance(error, (httpx.RemoteProtocolError, httpx.ReadError))
    if dropped and server.startswith("http:") and _speaks_tls(server):
        raise ServerError(f"{server} speaks TLS; is it https:// ?") from error


def _speaks_tls(server: str) -> bool:
    """Whether there is TLS where plain HTTP was tried: such a server hangs up without a word."""
    parts = urlsplit(server)
    try:
        return bool(ssl.get_server_certificate((parts.hostname or "", parts.port or 80), timeout=5))
    except OSError:
        return False

"""Connections to a server over HTTPS: whom to trust, and what is tried again, since waiting may help."""

import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

import httpx

from pocketfed.core.errors import KeyFileError, ServerError, Unreachable
from pocketfed.mobile_client.jitter import jitter

TRY_AGAIN = (408, 429, 502, 503, 504)
"""Statuses that may be others a little later."""

T = TypeVar("T")


class TryAgain(Exception):
    """An attempt has failed, and another one may not; the message says why."""


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
        return jitter(0, min(self.most, self.first * 2**attempt))


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


def persist(attempt: Callable[[], T], server: str, retry: Retry, sleep: Callable[[float], None]) -> T:
    """What an attempt comes to, made again where that may help.

    Args:
        attempt: raises `TryAgain` or one of httpx's transport errors if it should be made again.
        server: that it goes to, for messages.
        retry: how often, and how soon.
        sleep: waits so many seconds.

    Raises:
        Unreachable: the last attempt failed, too.
        ServerError: this server will never do: its certificate is not trusted, or it speaks otherwise.
    """
    for number in range(retry.tries):
        try:
            return attempt()
        except httpx.TransportError as error:
            _raise_if_hopeless(server, error)
            failure = f"{server} cannot be reached ({error or type(error).__name__})"
        except TryAgain as error:
            failure = str(error)
        if number < retry.tries - 1:
            sleep(retry.wait(number))
    raise Unreachable(failure)


def _raise_if_hopeless(server: str, error: BaseException) -> None:
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

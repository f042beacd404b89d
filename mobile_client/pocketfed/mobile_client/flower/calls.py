"""One call of the Fleet API: protobuf there and back over HTTP, signed, bounded, and tried again where that may help."""

import logging
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Self

import httpx
from google.protobuf.message import DecodeError

from pocketfed.core.errors import CallRefused, MalformedObject, ServerError, Unreachable
from pocketfed.core.parsing import parse_json
from pocketfed.mobile_client.connection import TRY_AGAIN, Retry, TryAgain, open_client, persist
from pocketfed.mobile_client.flower.clock import LAG, TOLERANCE, ServerClock
from pocketfed.mobile_client.flower.key import PhoneKey

MEDIA_TYPE = "application/protobuf"
MAX_ERROR = 4096
"""Bytes of an error that are read."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Reply:
    """What a server said, as it came.

    Attributes:
        status: of HTTP.
        date: the header.
        came: when the headers did, by this phone's own clock; the content may have taken minutes more.
        content: of a success all of it, of an error the beginning.
    """

    status: int
    date: str | None
    came: float
    content: bytes


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
        self.met = False  # whether this is a Flower server for certain: what else is there now, will pass
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
            Unreachable: no answer, however often it was tried; or what `ServerError` says, of a server that was met.
            CallRefused: the server answered with an error.
            ServerError: this server will never do: its certificate is not trusted, or it is no Flower server.
            MalformedObject: the answer is larger than agreed.
        """
        body = request.SerializeToString()

        def attempt() -> Any:
            reply = self._send(name, body)
            if self._clock_was_wrong(reply):
                reply = self._send(name, body)
            if reply.status in TRY_AGAIN:
                raise TryAgain(f"{self.server} answers {name} with HTTP {reply.status}")
            return self._answer(name, reply.status, reply.content, response)

        retry = replace(self._retry, tries=tries or self._retry.tries)
        try:
            return persist(attempt, self.server, retry, self._sleep)
        except ServerError as error:
            if self.met:  # a proxy is being changed, a certificate is renewed late
                raise Unreachable(str(error)) from error
            raise

    def _clock_was_wrong(self, reply: Reply) -> bool:
        """Whether a refusal may have come from this phone's clock, which goes by the server's from now on."""
        refused = reply.status == 401
        corrected = self.clock.correct(reply.date, reply.came, TOLERANCE if refused else LAG)
        if corrected:
            log.warning("this phone's clock is %+.0f s off; going by the server's", -self.clock.offset)
        return refused and corrected

    def _send(self, name: str, body: bytes) -> Reply:
        headers = self.key.headers(self.clock.now())
        headers |= {"content-type": MEDIA_TYPE, "accept": MEDIA_TYPE, "accept-encoding": "identity"}
        with self._lock:
            self.count[name] += 1
        url = f"{self.server}/v1/fleet/{name}"
        with self._client.stream("POST", url, content=body, headers=headers) as response:
            came = self.clock.here()
            limit = self._max_answer if response.status_code == 200 else MAX_ERROR
            content = bytearray()
            for piece in response.iter_raw():
                content += piece
                if len(content) > limit:
                    if response.status_code == 200:
                        raise MalformedObject(f"{name} is answered with more than {limit} bytes")
                    break
            return Reply(response.status_code, response.headers.get("date"), came, bytes(content))

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
        values = parse_json(content)
        code, detail = values.get("code", 0), values["detail"]
        if type(code) is int and isinstance(detail, str):
            return code, detail
    except (ValueError, KeyError, TypeError, AttributeError):
        pass
    return 0, content[:200].decode(errors="replace") or "no reason given"

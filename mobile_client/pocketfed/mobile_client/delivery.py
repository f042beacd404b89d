"""Fetching a bundle from a server over HTTP: what it offers, and files that are gone on with after an interruption.

Nothing that comes is believed: the offer is bounded and judged by its signature (`core.acceptance`), a file is bounded
by the size that the signed manifest states, and hashed while it comes.
"""

import hashlib
import os
import re
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Self, TypeVar
from urllib.parse import quote

import httpx

from pocketfed.core.errors import BundleError, ServerError
from pocketfed.core.parsing import parse_json
from pocketfed.core.release import LARGEST_MANIFEST, File, Release
from pocketfed.mobile_client.connection import TRY_AGAIN, Retry, TryAgain, open_client, persist

T = TypeVar("T")

LARGEST_OFFER = 2 * LARGEST_MANIFEST
"""Bytes; JSON inside JSON has every quotation mark escaped."""

PIECE = 1 << 16
"""Bytes that are read and hashed at once."""


ETAG = re.compile(r'(W/)?"[!#-~]{0,200}"')
"""Of those that are sent back; another would be no header."""


class Gone(BundleError):
    """The server has no such file of this bundle, such as when it has taken over a later release meanwhile."""


@dataclass(frozen=True)
class Offer:
    """What a server says that phones should have.

    Attributes:
        manifest: bytes.
        signature: None if it has none.
        etag: names this offer, so as not to be sent it again; "" if the server gave none.
    """

    manifest: bytes
    signature: str | None
    etag: str = ""


class Depot:
    """The bundle of one server. Use it as a context manager."""

    def __init__(
        self,
        server: str,
        verify: ssl.SSLContext | None = None,
        retry: Retry | None = None,
        transport: httpx.BaseTransport | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Nothing is sent yet.

        Args:
            server: `http(s)://host:port`.
            verify: whom to trust, for https.
            retry: how to try again, anew for each file.
            transport: in place of the network.
            sleep: waits so many seconds.
        """
        self.server = server.rstrip("/")
        self._client, self._retry, self._sleep = open_client(verify, transport), retry or Retry(), sleep

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    def offer(self, etag: str = "") -> Offer | None:
        """What the server offers; None if that is what it offered under `etag`.

        Raises:
            Unreachable: no answer, however often it was tried.
            BundleError: it offers none, or one that cannot be read, or its certificate is not trusted.
        """
        return self._trying(lambda: self._offer(etag))

    def fetch(self, release: Release, name: str, path: Path) -> None:
        """Bring a file of a bundle here; what is there of it already is gone on with.

        Args:
            release: that the bundle is.
            name: of the file in it.
            path: where to; its folder is made.

        Raises:
            Unreachable: no answer, however often it was tried.
            Gone: the server has no such file.
            BundleError: its certificate is not trusted, or the server has another file than the manifest describes.
            OSError: it cannot be written.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        self._trying(lambda: self._go_on(release, name, path))

    def _trying(self, attempt: Callable[[], T]) -> T:
        try:
            return persist(attempt, self.server, self._retry, self._sleep)
        except ServerError as error:  # a phone that has a bundle goes on with it
            raise BundleError(str(error)) from error

    def _offer(self, etag: str) -> Offer | None:
        headers = {"accept-encoding": "identity"} | ({"if-none-match": etag} if etag else {})
        with self._client.stream("GET", f"{self.server}/bundle", headers=headers) as response:
            if response.status_code == 304:
                return None
            if response.status_code == 404:
                raise BundleError(
                    f"{self.server} offers no bundle; serve one with pocketfed serve, or give it with --bundle"
                )
            if response.status_code != 200:
                raise self._refused("its bundle", response.status_code)
            content = bytearray()
            for piece in response.iter_raw():
                content += piece
                if len(content) > LARGEST_OFFER:
                    raise BundleError(
                        f"{self.server} offers a manifest beyond {LARGEST_MANIFEST} bytes; that is no bundle"
                    )
            etag = response.headers.get("etag", "")
            return _read_offer(bytes(content), self.server, etag if ETAG.fullmatch(etag) else "")

    def _go_on(self, release: Release, name: str, path: Path) -> None:
        url, file = f"{self.server}/bundles/{release.id}/{quote(name)}", release.files[name]
        with path.open("a+b") as target:
            digest, had = _hash(target)
            if had > file.bytes:
                digest, had = _begin_anew(target)
            have = had
            if had < file.bytes:
                headers = {"accept-encoding": "identity"}
                if had:
                    headers |= {"range": f"bytes={had}-", "if-range": f'"{file.sha256}"'}
                with self._client.stream("GET", url, headers=headers) as response:
                    part = f"bytes {had}-{file.bytes - 1}/{file.bytes}"
                    if had and response.status_code == 416:
                        _begin_anew(target)
                        raise TryAgain(f"{self.server} has another {name}")
                    if response.status_code == 200:
                        digest, had = _begin_anew(target)
                        have = 0
                    elif response.status_code != 206 or response.headers.get("content-range") != part:
                        raise self._refused(name, response.status_code)
                    for piece in response.iter_raw():
                        have += len(piece)
                        if have > file.bytes:
                            _begin_anew(target)
                            raise BundleError(
                                f"{self.server} sends more than the {file.bytes} bytes of {name} that the manifest "
                                "states; serve the bundle anew"
                            )
                        digest.update(piece)
                        target.write(piece)
            target.flush()
            os.fsync(target.fileno())
            found = File(have, digest.hexdigest())
            if found == file:
                return
            _begin_anew(target)
        if had:  # what was here may be what is wrong
            raise TryAgain(f"{self.server} has another {name}")
        raise BundleError(f"{name} of {self.server} {release.wrong(name, found)}; serve the bundle anew")

    def _refused(self, what: str, status: int) -> Exception:
        if status in TRY_AGAIN or status >= 500:
            return TryAgain(f"{self.server} answers with HTTP {status}")
        refusal = Gone if status == 404 else BundleError
        return refusal(f"{self.server} does not give {what} (HTTP {status}); serve the bundle anew")


def _read_offer(content: bytes, server: str, etag: str) -> Offer:
    try:
        values = parse_json(content)
        manifest, signature = values["manifest"], values["signature"]
        if not isinstance(manifest, str) or not isinstance(signature, str | None):
            raise TypeError("its manifest and signature are no texts")
        return Offer(manifest.encode(), signature, etag)
    except (ValueError, KeyError, TypeError) as error:
        raise BundleError(
            f"what {server} offers is no bundle ({error!r}); look at {server}/bundle"
        ) from error


def _hash(file: IO[bytes]) -> tuple["hashlib._Hash", int]:
    """Of what is in a file, and its size; the file is at its end then."""
    digest, size = hashlib.sha256(), 0
    file.seek(0)
    while piece := file.read(PIECE):
        digest.update(piece)
        size += len(piece)
    return digest, size


def _begin_anew(file: IO[bytes]) -> tuple["hashlib._Hash", int]:
    file.truncate(0)
    return hashlib.sha256(), 0

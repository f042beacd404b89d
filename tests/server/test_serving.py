"""Where a server says that it can be reached."""

import socket

import httpx
import pytest
from starlette.applications import Starlette

from pocketfed.core.errors import ServerError
from pocketfed.server.serving import Serving, authority


@pytest.mark.parametrize(
    ("host", "expected"),
    [("::1", "[::1]:80"), ("fe80::2", "[fe80::2]:80"), ("10.0.0.1", "10.0.0.1:80"), ("a.test", "a.test:80")],
)
def test_only_colons_are_bracketed(host: str, expected: str) -> None:
    assert authority(host, 80) == expected


def has_ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "::1", "::"])
def test_the_address_that_is_printed_works(host: str) -> None:
    if ":" in host and not has_ipv6():
        pytest.skip("this machine has no IPv6")
    with Serving(Starlette(), host, 0, None) as server:
        assert httpx.get(server.url, trust_env=False).status_code == 404


def test_an_address_that_is_taken_is_said_as_it_would_be_written() -> None:
    if not has_ipv6():
        pytest.skip("this machine has no IPv6")
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ServerError, match=rf"cannot listen at \[::1]:{port} "):
            Serving(Starlette(), "::1", port, None)

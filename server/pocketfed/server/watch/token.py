"""Who may see the page: whoever has the token, when there is one."""

import hashlib
import hmac
import ipaddress

COOKIE = "pocketfed_watch"


def needs_token(host: str) -> bool:
    """Whether a server that listens at `host` can be reached from other machines, as far as its name tells."""
    if host == "localhost":
        return False
    try:
        return not ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return True


def cookie_of(token: str) -> str:
    """What a browser keeps in place of the token, which may hold characters that a cookie must not."""
    return hashlib.sha256(b"pocketfed watch\0" + token.encode()).hexdigest()


def is_token(given: str, token: str) -> bool:
    """Whether they are the same, in a time that does not depend on where they differ."""
    return hmac.compare_digest(given.encode("utf-8", "replace"), token.encode())


def is_admitted(token: str, authorization: str, cookie: str) -> bool:
    """Whether a request with this `Authorization` header, or this cookie, has the token."""
    scheme, _, given = authorization.partition(" ")
    if scheme.lower() == "bearer" and is_token(given.strip(), token):
        return True
    return is_token(cookie, cookie_of(token))

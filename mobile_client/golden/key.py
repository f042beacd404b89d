"""A key and the headers of a call."""

from typing import Any

from golden.sample import NOW, PRIVATE_KEY, key


def key_case() -> dict[str, Any]:
    """What the key comes to; the signature is one of many that verify."""
    own = key()
    return {
        "private_pem": PRIVATE_KEY,
        "public_pem": own.public_pem.decode(),
        "public_openssh": own.public_openssh,
        "number": own.number,
        "now": NOW,
        "headers": own.headers(NOW),
    }

"""What a TLS connection holds in memory while it lives; a server has one for each phone.

asyncio gives each connection a buffer of 256 KiB to read into, whose size is no setting but `SSLProtocol.max_size`, an
internal of CPython's. OpenSSL keeps two more, which grow to the most that was ever put into them at once and do not
shrink: what is read, and what is written in one go (`turns.PIECE`). uvloop has buffers of its own of a fixed size, so a
server runs on asyncio. tests/server/test_tls_buffers.py fails if a connection becomes large again.
"""

from asyncio.sslproto import SSLProtocol

READ = 1 << 15
"""Bytes. 16 KiB are the largest TLS record; half of this took a sixth more processor time for an upload of 2 MB."""


def keep_tls_buffers_small() -> None:
    """Of all connections of this process that begin from now on."""
    SSLProtocol.max_size = READ

"""A phone's key: who it is on the wire. Hardware keystores make the same kind of key, on the curve P-256."""

import base64
import hashlib
import os
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_ssh_private_key,
)

from pocketfed.core.atomic import write_atomically
from pocketfed.core.errors import KeyFileError

PUBLIC_KEY, TIMESTAMP, SIGNATURE = "flwr-public-key", "flwr-timestamp", "flwr-signature"
"""Headers that every call carries."""

CURVES = (ec.SECP256R1, ec.SECP384R1)

MAX_FILE = 16_384
"""Bytes that a key file may have."""


@dataclass(frozen=True)
class PhoneKey:
    """An EC key on P-256 or P-384.

    Attributes:
        private: the private half; it never leaves the phone.
    """

    private: ec.EllipticCurvePrivateKey

    @cached_property
    def public_pem(self) -> bytes:
        """The public half as the wire has it: PEM of SubjectPublicKeyInfo."""
        return self.private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)

    @cached_property
    def public_openssh(self) -> str:
        """The public half in one line, as a person pastes it when enrolling the phone."""
        return self.private.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()

    @cached_property
    def number(self) -> int:
        """A number for the phone: the first 48 bits of the SHA-256 of the public key (DER)."""
        der = self.private.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        return int.from_bytes(hashlib.sha256(der).digest()[:6], "big")

    def headers(self, now: float) -> dict[str, str]:
        """The headers that sign a call made at `now` (seconds since 1970, by the server's clock).

        The signature covers the timestamp only, not the body: TLS must protect the rest.
        """
        timestamp = datetime.fromtimestamp(now, UTC).isoformat()
        signature = self.private.sign(timestamp.encode("ascii"), ec.ECDSA(SHA256()))
        return {
            PUBLIC_KEY: base64.b64encode(self.public_pem).decode(),
            TIMESTAMP: timestamp,
            SIGNATURE: base64.b64encode(signature).decode(),
        }


def load_or_create_key(path: Path) -> PhoneKey:
    """The key in a file of mode 600; a new one on P-256 if there is no file. Its public half lies beside it, `.pub`.

    Raises:
        KeyFileError: the file is readable by others, or holds no such key, or none can be written.
    """
    if not path.exists():
        _create(path)
    key = load_key(path)
    public = path.with_suffix(".pub")
    if not public.exists():
        try:
            write_atomically(public, f"{key.public_openssh}\n".encode())
        except OSError as error:
            raise KeyFileError(f"no key can be written to {public} ({error.strerror})") from error
    return key


def load_key(path: Path) -> PhoneKey:
    """Read a private key: PEM (PKCS #8 or SEC 1) or OpenSSH, P-256 or P-384, without passphrase.

    Raises:
        KeyFileError: it cannot be read, others may read it, or it is no such key.
    """
    try:
        mode = path.stat().st_mode
        with path.open("rb") as file:
            content = file.read(MAX_FILE)
    except OSError as error:
        raise KeyFileError(f"the key {path} cannot be read ({error.strerror})") from error
    if mode & 0o077:
        raise KeyFileError(
            f"the key {path} may be read by others (mode {mode & 0o777:o}); close it: chmod 600 {path}"
        )
    load = load_ssh_private_key if b"OPENSSH" in content else load_pem_private_key
    try:
        private = load(content, None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise KeyFileError(
            f"{path} holds no private key that can be read (PEM or OpenSSH, without passphrase): {error}"
        ) from error
    if not isinstance(private, ec.EllipticCurvePrivateKey) or not isinstance(private.curve, CURVES):
        raise KeyFileError(f"the key {path} is of the wrong kind; it must be an EC key on P-256 or P-384")
    return PhoneKey(private)


def _create(path: Path) -> None:
    """Write a new key without ever having it readable by others, or in place of one that is there already."""
    content = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
    )
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # of mode 600
    except OSError as error:
        raise KeyFileError(f"no key can be written to {path} ({error.strerror})") from error
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.link(temporary, path)
    except FileExistsError:
        pass  # another process was faster; its key is as good
    except OSError as error:
        raise KeyFileError(f"no key can be written to {path} ({error.strerror})") from error
    finally:
        Path(temporary).unlink(missing_ok=True)

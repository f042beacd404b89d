"""A phone's public key as a person hands it over: EC P-256 or P-384, PEM or OpenSSH."""

import base64
import hashlib
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_public_key,
    load_ssh_public_key,
)

from pocketfed.core.errors import KeyFileError

LARGEST = 16 * 1024
"""Bytes of a key file; a key takes a few hundred."""

CURVES = {"secp256r1": "P-256", "secp384r1": "P-384"}

MAKE = "make one with: ssh-keygen -t ecdsa -b 256 -f phone-key"


@dataclass(frozen=True)
class PublicKey:
    """A phone's public key.

    Attributes:
        pem: SubjectPublicKeyInfo, always the same bytes for the same key.
        curve: `P-256` or `P-384`.
        fingerprint: `SHA256:…`, as `ssh-keygen -l` shows it.
    """

    pem: bytes
    curve: str
    fingerprint: str


def read_public_key(path: Path) -> PublicKey:
    """The public key in a file.

    Raises:
        KeyFileError: the file cannot be read or holds no such key; the message says what to do.
    """
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST + 1)
    except OSError as error:
        raise KeyFileError(
            f"{path} cannot be read ({error.strerror}); give the file of a public key"
        ) from error
    return parse_public_key(content, str(path))


def parse_public_key(content: bytes, name: str) -> PublicKey:
    """The public key in `content`; `name` says in errors where that came from.

    Raises:
        KeyFileError: it is too large, a private key, a certificate, of another kind or curve, or damaged.
    """
    if len(content) > LARGEST:
        raise KeyFileError(f"{name} is larger than {LARGEST} bytes, so it is no public key; {MAKE}")
    content = content.strip()
    if b"PRIVATE KEY" in content:
        raise KeyFileError(
            f"{name} holds a private key, which must stay on its phone; give the public one (ssh-keygen -y -f "
            f"{name} prints it)"
        )
    if b"BEGIN CERTIFICATE" in content:
        raise KeyFileError(f"{name} holds a certificate; give the phone's public key itself")
    pem = b"-----BEGIN" in content
    if content.count(b"-----BEGIN") > 1 or (not pem and len(content.splitlines()) > 1):
        raise KeyFileError(f"{name} holds more than one key or line; give each phone's in a file of its own")
    # Keys that live in a security key sign something else than what they are given; these prefixes name them.
    if content.startswith((b"sk-", b"ecdsa-sha2-nistp256-cert", b"ecdsa-sha2-nistp384-cert")):
        raise KeyFileError(f"{name} holds a {content.split()[0].decode()} key, which no phone has; {MAKE}")
    try:
        key = load_pem_public_key(content) if pem else load_ssh_public_key(content)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise KeyFileError(
            f"{name} holds no public key in PEM or OpenSSH form, or a damaged one; {MAKE}"
        ) from error
    if not isinstance(key, ec.EllipticCurvePublicKey):
        kind = type(key).__name__.strip("_").removesuffix("PublicKey")
        raise KeyFileError(f"{name} holds an {kind} key; phones sign with EC P-256 or P-384; {MAKE}")
    if key.curve.name not in CURVES:
        raise KeyFileError(
            f"{name} holds an EC key on {key.curve.name}; phones sign with P-256 or P-384; {MAKE}"
        )
    return PublicKey(
        pem=key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
        curve=CURVES[key.curve.name],
        fingerprint=_fingerprint(key),
    )


def _fingerprint(key: ec.EllipticCurvePublicKey) -> str:
    blob = base64.b64decode(key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).split()[1])
    return "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")

"""Ed25519 signatures: who made a bundle, and that nothing of it has been changed since.

A key is two files, `PREFIX` (PKCS #8, for its owner alone) and `PREFIX.pub` (SubjectPublicKeyInfo), both PEM. A
signature is one line of text, `ed25519 FINGERPRINT BASE64`, so that a signature by another key can be told from one
that does not match.
"""

import base64
import binascii
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from pocketfed.core.atomic import write_atomically
from pocketfed.core.errors import KeyFileError, SignatureError

LARGEST = 16 * 1024
"""Bytes of a key file; a key takes about a hundred."""

OTHERS = 0o077
"""Permissions of everybody but the owner."""


@dataclass(frozen=True)
class SigningKey:
    """The key of whoever makes bundles."""

    private: Ed25519PrivateKey

    @property
    def public(self) -> "VerifyingKey":
        """What phones have of it."""
        return VerifyingKey(self.private.public_key())

    def sign(self, content: bytes) -> str:
        """A signature, one line of text."""
        signature = base64.b64encode(self.private.sign(content)).decode()
        return f"ed25519 {self.public.fingerprint} {signature}\n"


@dataclass(frozen=True)
class VerifyingKey:
    """The public part."""

    public: Ed25519PublicKey

    @property
    def fingerprint(self) -> str:
        """The first 16 hex digits of the SHA-256 of the key's 32 bytes."""
        return hashlib.sha256(self.public.public_bytes(Encoding.Raw, PublicFormat.Raw)).hexdigest()[:16]

    def check(self, content: bytes, signature: str) -> None:
        """Nothing, if this key signed this content.

        Raises:
            SignatureError: it did not; the message says whether it was another key.
        """
        try:
            kind, signer, encoded = signature.removesuffix("\n").split(" ")
            raw = base64.b64decode(encoded, validate=True)
            if base64.b64encode(raw).decode() != encoded:
                raise ValueError("bits beyond its end")
        except (ValueError, binascii.Error) as error:
            raise SignatureError("the signature is damaged; get the bundle anew from who made it") from error
        if kind != "ed25519":
            raise SignatureError(
                f"the signature is {kind[:20]!r}, this version knows ed25519; sign the bundle with pocketfed, or use a later version"
            )
        if signer != self.fingerprint:
            raise SignatureError(
                f"it was signed by the key {signer[:16]!r}, and the trusted one is {self.fingerprint!r}; use the "
                "public key of who made the bundle"
            )
        try:
            self.public.verify(raw, content)
        except InvalidSignature as error:
            raise SignatureError(
                "the manifest was changed after it was signed; get the bundle anew"
            ) from error


def make_signing_key(prefix: Path) -> SigningKey:
    """A new key, in `prefix` (mode 600) and `prefix`.pub.

    Raises:
        KeyFileError: one of the files exists, or cannot be written, or there is no name for them.
    """
    if not prefix.name:
        raise KeyFileError(
            f"{prefix} is a folder; give the name of a key: pocketfed keys {prefix / 'release'}"
        )
    public = public_path(prefix)
    for path in (prefix, public):
        if os.path.exists(path):
            raise KeyFileError(
                f"{path} exists; a key that has been used is not replaced, choose another name"
            )
    key = SigningKey(Ed25519PrivateKey.generate())
    try:
        prefix.parent.mkdir(parents=True, exist_ok=True)
        secret = key.private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        write_atomically(prefix, secret, mode=0o600)
        write_atomically(
            public, key.public.public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        )
    except OSError as error:
        raise KeyFileError(
            f"{prefix} cannot be written ({error.strerror}); choose another place: pocketfed keys PREFIX"
        ) from error
    return key


def public_path(prefix: Path) -> Path:
    """The file of a key's public part."""
    return prefix.with_name(prefix.name + ".pub")


def read_signing_key(path: Path) -> SigningKey:
    """The private key in a file.

    Raises:
        KeyFileError: it is missing, holds no such key, or can be read by others.
    """
    content = _read(path)
    if b"PUBLIC KEY" in content:
        private = f", {path.stem}" if path.suffix == ".pub" else ""
        raise KeyFileError(f"{path} holds the public key; give the private one{private}")
    if path.stat().st_mode & OTHERS:
        raise KeyFileError(f"{path} can be read by others than its owner; chmod 600 {path}")
    try:
        key = load_pem_private_key(content, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise KeyFileError(f"{path} holds no private key; make one with: pocketfed keys PREFIX") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise KeyFileError(
            f"{path} holds a key of another kind than Ed25519; make one with: pocketfed keys PREFIX"
        )
    return SigningKey(key)


def read_verifying_key(path: Path) -> VerifyingKey:
    """The public key in a file.

    Raises:
        KeyFileError: it is missing, or holds no such key.
    """
    content = _read(path)
    if b"PRIVATE KEY" in content:
        raise KeyFileError(f"{path} holds the private key; give the public one, {public_path(path).name}")
    try:
        key = load_pem_public_key(content)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise KeyFileError(
            f"{path} holds no public key; give the .pub file of: pocketfed keys PREFIX"
        ) from error
    if not isinstance(key, Ed25519PublicKey):
        raise KeyFileError(
            f"{path} holds a key of another kind than Ed25519; give the .pub file of: pocketfed keys"
        )
    return VerifyingKey(key)


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST + 1)
    except OSError as error:
        raise KeyFileError(
            f"{path} cannot be read ({error.strerror}); make a key with: pocketfed keys PREFIX"
        ) from error
    if len(content) > LARGEST:
        raise KeyFileError(
            f"{path} is larger than {LARGEST} bytes, so it is no key; make one with: pocketfed keys PREFIX"
        )
    return content

"""The key's file: made once, private, and refused if it is anything else."""

import base64
import os
import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
)
from flwr.supercore.primitives.asymmetric import bytes_to_public_key, verify_signature

from pocketfed.core.errors import KeyFileError
from pocketfed.mobile_client.flower.key import PUBLIC_KEY, SIGNATURE, TIMESTAMP, load_key, load_or_create_key


def write(path: Path, content: bytes, mode: int = 0o600) -> Path:
    path.write_bytes(content)
    path.chmod(mode)
    return path


def pem(
    private: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey,
    form: PrivateFormat = PrivateFormat.PKCS8,
    encryption: KeySerializationEncryption | None = None,
) -> bytes:
    return private.private_bytes(Encoding.PEM, form, encryption or NoEncryption())


def test_a_key_is_made_once_for_its_owner_only(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        key = load_or_create_key(tmp_path / "key")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600
    assert load_or_create_key(tmp_path / "key").public_pem == key.public_pem
    assert isinstance(key.private.curve, ec.SECP256R1)
    assert 0 <= key.number < 2**48
    assert sorted(path.name for path in tmp_path.iterdir()) == ["key", "key.pub"]
    assert (tmp_path / "key.pub").read_text().strip() == key.public_openssh
    headers = key.headers(1767225600.5)
    assert headers[TIMESTAMP] == "2026-01-01T00:00:00.500000+00:00"
    public = bytes_to_public_key(base64.b64decode(headers[PUBLIC_KEY]))
    assert verify_signature(public, headers[TIMESTAMP].encode(), base64.b64decode(headers[SIGNATURE]))


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1()])
@pytest.mark.parametrize(
    "form", [PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL, PrivateFormat.OpenSSH]
)
def test_keys_of_other_tools_are_read(curve: ec.EllipticCurve, form: PrivateFormat, tmp_path: Path) -> None:
    private = ec.generate_private_key(curve)
    path = write(tmp_path / "key", pem(private, form))
    assert load_key(path).private.private_numbers() == private.private_numbers()


P256 = ec.generate_private_key(ec.SECP256R1())


@pytest.mark.parametrize(
    ("content", "mode", "expected"),
    [
        (pem(P256), 0o644, "chmod 600"),
        (pem(P256), 0o640, "chmod 600"),
        (b"", 0o600, "no private key"),
        (b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", 0o600, "no private key"),
        (b"-----BEGIN OPENSSH PRIVATE KEY-----\n", 0o600, "no private key"),
        (pem(P256, encryption=BestAvailableEncryption(b"x")), 0o600, "without passphrase"),
        (pem(rsa.generate_private_key(65537, 2048)), 0o600, "wrong kind"),
        (pem(ec.generate_private_key(ec.SECP521R1())), 0o600, "wrong kind"),
        (os.urandom(100_000), 0o600, "no private key"),
    ],
)
def test_other_files_are_refused(content: bytes, mode: int, expected: str, tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match=expected):
        load_or_create_key(write(tmp_path / "key", content, mode))
    with pytest.raises(KeyFileError, match="no key can be written"):
        load_or_create_key(tmp_path / "absent" / "key")

"""Keys as people hand them over, and every mistake answered with what to do."""

import contextlib
import itertools
import shutil
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_public_key,
)
from hypothesis import given
from hypothesis import strategies as st

from pocketfed.core.errors import KeyFileError
from pocketfed.server.certificates import make_certificates
from pocketfed.server.public_keys import LARGEST, PublicKey, parse_public_key, read_public_key

P256, P384 = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP384R1())


def pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def ssh(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)


@pytest.mark.parametrize(("key", "curve"), [(P256, "P-256"), (P384, "P-384")])
def test_every_form_of_a_key_is_the_same_key(key: ec.EllipticCurvePrivateKey, curve: str) -> None:
    forms = [
        pem(key), b"\n" + pem(key) + b"\n\n", pem(key).replace(b"\n", b"\r\n"), ssh(key),
        ssh(key) + b" phone@desk\n",
    ]  # fmt: skip
    found = {parse_public_key(form, "key") for form in forms}
    assert len(found) == 1
    (one,) = found
    assert one.curve == curve
    assert one.pem == pem(key)
    assert load_pem_public_key(one.pem) == key.public_key()


@pytest.mark.parametrize("bits", [256, 384])
def test_ssh_keygen_makes_them_and_agrees_on_the_fingerprint(bits: int, tmp_path: Path) -> None:
    keygen = shutil.which("ssh-keygen")
    if keygen is None:
        pytest.skip("no ssh-keygen on PATH")
    path = tmp_path / "phone"
    command = [keygen, "-q", "-t", "ecdsa", "-b", str(bits), "-N", "", "-C", "my phone", "-f", str(path)]
    subprocess.run(command, check=True)
    public = path.with_suffix(".pub")
    shown = subprocess.run([keygen, "-lf", str(public)], capture_output=True, text=True, check=True).stdout
    assert read_public_key(public).fingerprint == shown.split()[1]
    with pytest.raises(KeyFileError, match="private key, which must stay on its phone"):
        read_public_key(path)


def private(form: PrivateFormat, password: bytes | None = None) -> bytes:
    encryption = BestAvailableEncryption(password) if password else NoEncryption()
    return P256.private_bytes(Encoding.PEM, form, encryption)


def foreign(key: rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey) -> list[bytes]:
    public = key.public_key()
    return [
        public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
        public.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH),
    ]


RSA = foreign(rsa.generate_private_key(public_exponent=65537, key_size=2048))
ED = foreign(ed25519.Ed25519PrivateKey.generate())
OTHER = [ec.generate_private_key(curve) for curve in (ec.SECP521R1(), ec.SECP256K1())]
SECURITY_KEY = b"sk-ecdsa-sha2-nistp256@openssh.com " + ssh(P256).split()[1]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (private(PrivateFormat.PKCS8), "holds a private key"),
        (private(PrivateFormat.TraditionalOpenSSL), "holds a private key"),
        (private(PrivateFormat.PKCS8, b"secret"), "holds a private key"),
        (RSA[0], "holds an RSA key; phones sign with EC P-256 or P-384"),
        (RSA[1], "holds an RSA key"),
        (ED[0], "holds an Ed25519 key"),
        (ED[1], "holds an Ed25519 key"),
        (pem(OTHER[0]), "on secp521r1"),
        (ssh(OTHER[0]), "on secp521r1"),
        (pem(OTHER[1]), "on secp256k1"),
        (SECURITY_KEY, "sk-ecdsa-sha2-nistp256@openssh.com key, which no phone has"),
        (ssh(P256) + b"\n" + ssh(P384), "a file of its own"),
        (pem(P256) + pem(P384), "a file of its own"),
        (pem(P256)[:90], "no public key in PEM or OpenSSH form"),
        (ssh(P256)[:60], "no public key in PEM or OpenSSH form"),
        (b"", "no public key in PEM or OpenSSH form"),
        (b"\x00\xff" * 50, "no public key in PEM or OpenSSH form"),
        (b"x" * (LARGEST + 1), f"larger than {LARGEST} bytes"),
    ],
    ids=itertools.count(),  # keys are new each time, and so would be the tests' names
)  # fmt: skip
def test_every_mistake_says_what_to_do(content: bytes, expected: str) -> None:
    with pytest.raises(KeyFileError, match=r"^phone\.pub (holds|is)") as raised:
        parse_public_key(content, "phone.pub")
    assert expected in str(raised.value)


def test_a_certificate_is_not_a_key(tmp_path: Path) -> None:
    files = make_certificates(tmp_path)
    with pytest.raises(KeyFileError, match="holds a certificate"):
        read_public_key(files.server)


@pytest.mark.parametrize("make", [lambda path: None, lambda path: path.mkdir()])
def test_a_file_that_is_not_there(make: object, tmp_path: Path) -> None:
    assert callable(make)
    make(tmp_path / "phone.pub")
    with pytest.raises(KeyFileError, match=r"phone\.pub cannot be read"):
        read_public_key(tmp_path / "phone.pub")


def test_a_huge_file_is_not_read_to_its_end() -> None:
    zero = Path("/dev/zero")
    if not zero.exists():
        pytest.skip("/dev/zero is of POSIX")
    with pytest.raises(KeyFileError, match="larger than"):
        read_public_key(zero)


@given(
    st.binary(max_size=300)
    | st.integers(0, len(pem(P256)) - 1).map(lambda at: pem(P256)[:at] + b"A" + pem(P256)[at + 1 :])
)
def test_no_bytes_do_harm(content: bytes) -> None:
    with contextlib.suppress(KeyFileError):
        assert isinstance(parse_public_key(content, "phone.pub"), PublicKey)

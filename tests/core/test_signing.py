"""Keys that sign bundles: what is refused, and with which words."""

import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from pocketfed.core.errors import KeyFileError, SignatureError
from pocketfed.core.signing import make_signing_key, public_path, read_signing_key, read_verifying_key


def test_a_key_comes_back_from_its_two_files(tmp_path: Path) -> None:
    made = make_signing_key(tmp_path / "keys" / "release")
    assert stat.S_IMODE((tmp_path / "keys" / "release").stat().st_mode) == 0o600
    private = read_signing_key(tmp_path / "keys" / "release")
    public = read_verifying_key(public_path(tmp_path / "keys" / "release"))
    assert public.fingerprint == private.public.fingerprint == made.public.fingerprint
    public.check(b"content", private.sign(b"content"))


@given(position=st.integers(0, 10**6), bit=st.integers(0, 7))
def test_no_bit_of_what_was_signed_can_change(
    tmp_path_factory: pytest.TempPathFactory, position: int, bit: int
) -> None:
    key = make_signing_key(tmp_path_factory.mktemp("key") / "release")
    content = b"the manifest of a bundle"
    changed = bytearray(content)
    changed[position % len(changed)] ^= 1 << bit
    with pytest.raises(SignatureError, match="changed after it was signed"):
        key.public.check(bytes(changed), key.sign(content))


def test_another_key_a_damaged_line_and_another_kind_have_words_of_their_own(tmp_path: Path) -> None:
    key, other = (make_signing_key(tmp_path / name) for name in ("release", "other"))
    line = key.sign(b"content")
    with pytest.raises(SignatureError, match=f"signed by the key '{other.public.fingerprint}'"):
        key.public.check(b"content", other.sign(b"content"))
    for damaged in ("", "ed25519", line.replace("=", ""), "ed25519 a b c"):
        with pytest.raises(SignatureError, match="the signature is damaged"):
            key.public.check(b"content", damaged)
    with pytest.raises(SignatureError, match="the signature is 'rsa'"):
        key.public.check(b"content", line.replace("ed25519", "rsa"))


def test_files_that_are_no_keys(tmp_path: Path) -> None:
    prefix = tmp_path / "release"
    make_signing_key(prefix)
    with pytest.raises(KeyFileError, match="exists; a key that has been used is not replaced"):
        make_signing_key(prefix)
    with pytest.raises(KeyFileError, match=r"holds the private key; give the public one, release\.pub"):
        read_verifying_key(prefix)
    with pytest.raises(
        KeyFileError, match=r"release\.pub holds the public key; give the private one, release$"
    ):
        read_signing_key(public_path(prefix))
    public_path(prefix).rename(tmp_path / "moved")
    with pytest.raises(KeyFileError, match=r"moved holds the public key; give the private one$"):
        read_signing_key(tmp_path / "moved")
    for nameless in (Path("."), Path("/")):
        with pytest.raises(KeyFileError, match="is a folder; give the name of a key"):
            make_signing_key(nameless)
    prefix.chmod(0o644)
    with pytest.raises(KeyFileError, match="can be read by others than its owner; chmod 600"):
        read_signing_key(prefix)
    with pytest.raises(KeyFileError, match=r"cannot be read \(No such file"):
        read_verifying_key(tmp_path / "absent")
    (tmp_path / "large").write_bytes(bytes(20_000))
    with pytest.raises(KeyFileError, match="larger than 16384 bytes"):
        read_verifying_key(tmp_path / "large")
    (tmp_path / "text").write_text("hello")
    with pytest.raises(KeyFileError, match="holds no public key"):
        read_verifying_key(tmp_path / "text")
    (tmp_path / "text").chmod(0o600)
    with pytest.raises(KeyFileError, match="holds no private key; make one"):
        read_signing_key(tmp_path / "text")


def test_keys_of_another_kind(tmp_path: Path) -> None:
    foreign = ec.generate_private_key(ec.SECP256R1())
    secret, public = tmp_path / "ec", tmp_path / "ec.pub"
    secret.write_bytes(foreign.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    secret.chmod(0o600)
    public.write_bytes(foreign.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    with pytest.raises(KeyFileError, match="another kind than Ed25519"):
        read_signing_key(secret)
    with pytest.raises(KeyFileError, match="another kind than Ed25519"):
        read_verifying_key(public)

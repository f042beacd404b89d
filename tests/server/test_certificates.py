"""Certificates as clients judge them: accepted with the authority, and for no other name, time or authority."""

import ipaddress
import shutil
import ssl
import stat
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID
from starlette.responses import PlainTextResponse

from pocketfed.core.errors import ConfigError, KeyFileError
from pocketfed.server.certificates import Certificates, is_dns_name, make_certificates, renew_certificate
from tests.server.serving import serving


def strict(ca: Path) -> ssl.SSLContext:
    """As Python since 3.13 judges by default, whichever Python runs this."""
    context = ssl.create_default_context(cafile=str(ca))
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    return context


def get(files: Certificates, ca: Path, name: str = "localhost") -> str:
    """Ask the server at 127.0.0.1 as if its name were `name`."""
    with (
        serving(PlainTextResponse("hello"), ssl_certfile=files.server, ssl_keyfile=files.server_key) as port,
        httpx.Client(verify=strict(ca), trust_env=False) as client,
    ):
        return client.get(f"https://127.0.0.1:{port}/", extensions={"sni_hostname": name}).text


def names(certificate: Path) -> set[str]:
    loaded = x509.load_pem_x509_certificate(certificate.read_bytes())
    found = loaded.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return {str(name.value) for name in found}


def test_phones_with_the_authority_accept_the_server(tmp_path: Path) -> None:
    files = make_certificates(tmp_path, ["fed.example.org", "192.168.1.20", "FED.example.org", "*.home.arpa"])
    assert names(files.server) == {
        "localhost", "127.0.0.1", "::1", "fed.example.org", "192.168.1.20", "*.home.arpa",
    }  # fmt: skip
    for name in ("localhost", "127.0.0.1", "fed.example.org", "pi.home.arpa"):
        assert get(files, files.ca, name) == "hello"


def test_others_do_not(tmp_path: Path) -> None:
    files = make_certificates(tmp_path / "one", ["fed.example.org"])
    foreign = make_certificates(tmp_path / "other", ["fed.example.org"])
    with pytest.raises(httpx.ConnectError, match=r"unable to get local issuer|self-signed"):
        get(files, foreign.ca)
    with pytest.raises(httpx.ConnectError, match="Hostname mismatch"):
        get(files, files.ca, "evil.example.org")
    with pytest.raises(httpx.ConnectError, match="IP address mismatch"):
        get(files, files.ca, "10.0.0.1")


def test_without_the_authority_it_is_refused(tmp_path: Path) -> None:
    files = make_certificates(tmp_path)
    with (
        serving(PlainTextResponse("hello"), ssl_certfile=files.server, ssl_keyfile=files.server_key) as port,
        httpx.Client(trust_env=False) as client,
        pytest.raises(httpx.ConnectError, match="certificate verify failed"),
    ):
        client.get(f"https://localhost:{port}/")


@pytest.mark.parametrize(
    ("days", "expected"), [(-398, "expired"), (2, "not yet valid"), (-396, None), (0, None)]
)
def test_it_is_good_for_its_time_only(days: int, expected: str | None, tmp_path: Path) -> None:
    files = make_certificates(tmp_path, now=datetime.now(UTC) + timedelta(days=days))
    if expected is None:
        assert get(files, files.ca) == "hello"
    else:
        with pytest.raises(httpx.ConnectError, match=expected):
            get(files, files.ca)


def test_what_android_and_ios_ask_for(tmp_path: Path) -> None:
    now = datetime(2026, 3, 1, tzinfo=UTC)
    files = make_certificates(tmp_path, ["10.0.0.7"], now=now)
    ca, server = (x509.load_pem_x509_certificate(path.read_bytes()) for path in (files.ca, files.server))
    server.verify_directly_issued_by(ca)
    assert server.not_valid_after_utc - server.not_valid_before_utc == timedelta(days=397)
    assert ca.not_valid_after_utc - ca.not_valid_before_utc == timedelta(days=5 * 365)
    for certificate in (ca, server):
        key = certificate.public_key()
        assert isinstance(key, ec.EllipticCurvePublicKey)
        assert isinstance(key.curve, ec.SECP256R1)
        assert certificate.not_valid_before_utc < now
        basic = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage)
        assert basic.critical
        assert usage.critical
        assert basic.value.ca is usage.value.key_cert_sign is (certificate is ca)
        assert usage.value.digital_signature is (certificate is server)
    extended = server.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(extended) == [ExtendedKeyUsageOID.SERVER_AUTH]
    subject = ca.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    issuer = server.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
    assert subject == issuer
    addresses = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert ipaddress.ip_address("10.0.0.7") in addresses.get_values_for_type(x509.IPAddress)


def test_openssl_agrees(tmp_path: Path) -> None:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("no openssl on PATH")
    files = make_certificates(tmp_path)
    command = [openssl, "verify", "-x509_strict", "-purpose", "sslserver", "-verify_hostname", "localhost"]
    done = subprocess.run(
        [*command, "-CAfile", files.ca, files.server], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="modes are of POSIX")
def test_keys_are_their_owners_alone(tmp_path: Path) -> None:
    files = make_certificates(tmp_path)
    modes = [stat.S_IMODE(path.stat().st_mode) for path in files.paths()]
    assert modes == [0o644, 0o600, 0o644, 0o600]


def test_nothing_is_replaced_unasked(tmp_path: Path) -> None:
    files = make_certificates(tmp_path)
    before = [path.read_bytes() for path in files.paths()]
    with pytest.raises(
        KeyFileError, match=r"holds ca\.pem, ca-key\.pem, server\.pem, server-key\.pem already"
    ):
        make_certificates(tmp_path)
    assert [path.read_bytes() for path in files.paths()] == before
    make_certificates(tmp_path, force=True)
    assert not set(before) & {path.read_bytes() for path in files.paths()}


def test_a_renewed_certificate_is_accepted_by_phones_as_they_are(tmp_path: Path) -> None:
    files = make_certificates(tmp_path)
    ca, server = files.ca.read_bytes(), files.server.read_bytes()
    renew_certificate(tmp_path, ["fed.example.org"])
    assert files.ca.read_bytes() == ca
    assert files.server.read_bytes() != server
    assert get(files, files.ca, "fed.example.org") == "hello"
    renewed = names(files.server)
    renew_certificate(tmp_path)
    assert names(files.server) == renewed  # without hosts, those of before
    files.server.write_text("damaged")
    renew_certificate(tmp_path)
    assert names(files.server) == {"localhost", "127.0.0.1", "::1"}


def test_a_certificate_never_outlives_its_authority(tmp_path: Path) -> None:
    long_ago = datetime.now(UTC) - timedelta(days=5 * 365 - 30)
    files = make_certificates(tmp_path, now=long_ago)
    renew_certificate(tmp_path)
    ca, server = (x509.load_pem_x509_certificate(path.read_bytes()) for path in (files.ca, files.server))
    assert server.not_valid_after_utc == ca.not_valid_after_utc
    assert get(files, files.ca) == "hello"
    with pytest.raises(KeyFileError, match="make a new authority with --force"):
        renew_certificate(tmp_path, now=datetime.now(UTC) + timedelta(days=31))


@pytest.mark.parametrize("damage", ["missing", "cut", "foreign"])
def test_an_authority_that_cannot_sign_is_a_clear_error(damage: str, tmp_path: Path) -> None:
    files = make_certificates(tmp_path / "certs")
    if damage == "missing":
        files.ca_key.unlink()
    elif damage == "cut":
        files.ca_key.write_bytes(files.ca_key.read_bytes()[:60])
    else:
        files.ca_key.write_bytes(make_certificates(tmp_path / "other").ca_key.read_bytes())
    with pytest.raises(KeyFileError, match="cannot be used"):
        renew_certificate(tmp_path / "certs")


def test_all_bad_hosts_at_once(tmp_path: Path) -> None:
    bad = ["https://fed.example.org", "fed.example.org:8443", "192.168.1.300", "", "a_b", "fed..org", "é.org"]
    with pytest.raises(ConfigError) as raised:
        make_certificates(tmp_path / "certs", ["fine.org", *bad])
    assert [problem.split(":", 1)[0] for problem in raised.value.problems] == [
        f"--host {host.partition(':')[0]}" for host in bad
    ]
    assert not (tmp_path / "certs").exists()


def test_a_folder_that_cannot_be_made_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "occupied").write_text("")
    with pytest.raises(KeyFileError, match="cannot be written"):
        make_certificates(tmp_path / "occupied" / "certs")


@pytest.mark.parametrize(
    "host", ["localhost", "a.b", "*.a.b", "xn--bcher-kva.example", "x" * 63 + ".org", "3com.com"]
)
def test_dns_names(host: str) -> None:
    assert is_dns_name(host)


@pytest.mark.parametrize("host", ["", "*", "a.*", "-a.org", "a-.org", "1.2.3", "x" * 64, "a b", "a." * 130])
def test_no_dns_names(host: str) -> None:
    assert not is_dns_name(host)

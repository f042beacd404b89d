"""A certificate authority for development, and a server certificate that it signs.

For a server on the internet a public authority is the better choice: its certificate needs no installation on phones.
The extensions are those that Python (strict since 3.13), Android and iOS ask for; iOS refuses server certificates
that last longer than 825 days, public ones longer than 398.
"""

import ipaddress
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from pocketfed.core.atomic import write_atomically
from pocketfed.core.errors import ConfigError, KeyFileError

SERVER_DAYS, AUTHORITY_DAYS = 397, 5 * 365

BACKDATED = timedelta(hours=1)
"""Phones whose clocks are slow accept the certificate at once."""

LOOPBACK = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class Certificates:
    """Where everything lies. Only `ca` goes to phones; the keys are readable by their owner alone."""

    ca: Path
    ca_key: Path
    server: Path
    server_key: Path

    @classmethod
    def inside(cls, folder: Path) -> "Certificates":
        """The usual names in a folder."""
        return cls(*(folder / name for name in ("ca.pem", "ca-key.pem", "server.pem", "server-key.pem")))

    def paths(self) -> tuple[Path, ...]:
        """All four."""
        return (self.ca, self.ca_key, self.server, self.server_key)


def make_certificates(
    folder: Path, hosts: Sequence[str] = (), *, force: bool = False, now: datetime | None = None
) -> Certificates:
    """Make an authority and a certificate for `hosts` and for this machine's own loopback names.

    Args:
        folder: made if it is not there.
        hosts: DNS names, `*.` before one allowed, and IP addresses by which phones reach the server.
        force: replace what is there. Phones must then be given the new `ca.pem`; `renew_certificate` spares them that.
        now: with a time zone; the certificates begin an hour before.

    Raises:
        KeyFileError: files are there already, or cannot be written.
        ConfigError: hosts that are neither names nor addresses, all of them at once.
    """
    names, files, begins = alternative_names(hosts), Certificates.inside(folder), _begin(now)
    there = [path.name for path in files.paths() if os.path.exists(path)]
    if there and not force:
        raise KeyFileError(
            f"{folder} holds {', '.join(there)} already; --renew makes a new server certificate that phones accept "
            "as they are, --force replaces everything"
        )
    ca_key, server_key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    ca = authority(ca_key, begins)
    server = server_certificate(ca, ca_key, server_key.public_key(), names, begins)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _write(files.ca_key, files.ca, ca_key, ca)
        _write(files.server_key, files.server, server_key, server)
    except OSError as error:
        raise KeyFileError(f"{folder} cannot be written ({error.strerror})") from error
    return files


def renew_certificate(
    folder: Path, hosts: Sequence[str] = (), *, now: datetime | None = None
) -> Certificates:
    """Replace the server's key and certificate, signed by the authority that is there; phones need nothing new.

    Without `hosts` the new certificate is for the names of the old one.

    Raises:
        KeyFileError: the authority is missing, damaged, or ends too soon to sign another certificate.
        ConfigError: as in `make_certificates`.
    """
    files, begins = Certificates.inside(folder), _begin(now)
    names = alternative_names(hosts or _hosts_of(files.server))
    try:
        ca = x509.load_pem_x509_certificate(files.ca.read_bytes())
        ca_key = load_pem_private_key(files.ca_key.read_bytes(), password=None)
        if not isinstance(ca_key, ec.EllipticCurvePrivateKey) or ca_key.public_key() != ca.public_key():
            raise ValueError("they do not belong together")
    except (OSError, ValueError, TypeError) as error:
        raise KeyFileError(
            f"{files.ca} and {files.ca_key.name} cannot be used ({error}); make a new authority with --force"
        ) from error
    if ca.not_valid_after_utc < begins + BACKDATED + timedelta(days=1):
        raise KeyFileError(
            f"{files.ca} ends on {ca.not_valid_after_utc:%Y-%m-%d}; make a new authority with --force"
        )
    server_key = ec.generate_private_key(ec.SECP256R1())
    server = server_certificate(ca, ca_key, server_key.public_key(), names, begins)
    try:
        _write(files.server_key, files.server, server_key, server)
    except OSError as error:
        raise KeyFileError(f"{folder} cannot be written ({error.strerror})") from error
    return files


def alternative_names(hosts: Sequence[str]) -> list[x509.GeneralName]:
    """The loopback names and `hosts`, each once, as names of a certificate.

    Raises:
        ConfigError: some are neither DNS names nor IP addresses.
    """
    found: list[x509.GeneralName] = []
    problems = []
    for host in (*LOOPBACK, *hosts):
        try:
            name: x509.GeneralName = x509.IPAddress(ipaddress.ip_address(host.strip("[]")))
        except ValueError:
            if not is_dns_name(host):
                problems.append(
                    f"--host {host}: expected a name such as fed.example.org or an address such as 192.168.1.20, "
                    "without scheme and port"
                )
                continue
            name = x509.DNSName(host.lower())
        if name not in found:
            found.append(name)
    if problems:
        raise ConfigError(problems)
    return found


def is_dns_name(host: str) -> bool:
    """Whether it is a DNS name in ASCII, perhaps with `*.` before it, and no mistyped address."""
    labels = host.removeprefix("*.").split(".")
    return (
        len(host) <= 253
        and all(re.fullmatch(r"(?!-)[A-Za-z0-9-]{1,63}(?<!-)", label) for label in labels)
        and not labels[-1].isdigit()
    )


def authority(key: ec.EllipticCurvePrivateKey, begins: datetime) -> x509.Certificate:
    """A certificate authority that may sign servers' certificates and nothing between."""
    # Two authorities in one trust store are told apart by their names.
    mark = x509.SubjectKeyIdentifier.from_public_key(key.public_key()).digest[:4].hex()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"pocketfed development CA {mark}")])
    return (
        _certificate(name, name, key.public_key(), key.public_key(), begins, timedelta(days=AUTHORITY_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .sign(key, hashes.SHA256())
    )


def server_certificate(
    ca: x509.Certificate,
    ca_key: ec.EllipticCurvePrivateKey,
    key: ec.EllipticCurvePublicKey,
    names: Sequence[x509.GeneralName],
    begins: datetime,
) -> x509.Certificate:
    """A certificate for TLS servers of these names, which ends no later than the authority's own."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "pocketfed server")])
    lasts = min(timedelta(days=SERVER_DAYS), ca.not_valid_after_utc - begins)
    return (
        _certificate(subject, ca.subject, key, ca_key.public_key(), begins, lasts)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(ca_key, hashes.SHA256())
    )


def _certificate(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, issuers: ec.EllipticCurvePublicKey,
    begins: datetime, lasts: timedelta,
) -> x509.CertificateBuilder:  # fmt: skip
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins)
        .not_valid_after(begins + lasts)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuers), critical=False)
    )


def _usage(signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates, key_cert_sign=signs_certificates, crl_sign=signs_certificates,
        content_commitment=False, key_encipherment=False, data_encipherment=False, key_agreement=False,
        encipher_only=False, decipher_only=False,
    )  # fmt: skip


def _hosts_of(certificate: Path) -> list[str]:
    try:
        loaded = x509.load_pem_x509_certificate(certificate.read_bytes())
        names = loaded.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (OSError, ValueError, x509.ExtensionNotFound):
        return []
    return [str(name.value) for name in names]


def _begin(now: datetime | None) -> datetime:
    return (now or datetime.now(UTC)).replace(microsecond=0) - BACKDATED


def _write(
    key_path: Path, path: Path, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate
) -> None:
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    write_atomically(key_path, private, mode=0o600)
    write_atomically(path, certificate.public_bytes(Encoding.PEM))

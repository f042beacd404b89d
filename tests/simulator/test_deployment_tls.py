"""A phone that meets the wrong certificate, or none, says so; the server serves the others all the same."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from pocketfed.core.errors import KeyFileError, ServerError
from pocketfed.server.certificates import Certificates, make_certificates
from pocketfed.server.serving import Tls
from tests.simulator.deployed import FEW, Server, assert_close, bundle, expected, fleet, settings, wait_for


def tls(files: Certificates) -> Tls:
    return Tls(files.server, files.server_key)


def test_phones_with_the_wrong_authority_or_without_tls_are_told_and_harm_nobody(tmp_path: Path) -> None:
    files = make_certificates(tmp_path / "certs")
    other = make_certificates(tmp_path / "other")
    made = bundle(tmp_path / "bundle", settings(2))
    with fleet(tmp_path, FEW + 2) as phones, Server(tmp_path / "state", made, tls=tls(files)) as server:
        *honest, wrong, plain = phones
        wrong.ca = other.ca
        wrong.start(server.url)
        plain.start(server.url.replace("https", "http"))
        wait_for(lambda: wrong.fault and plain.fault, "both are told")
        assert isinstance(wrong.fault, ServerError)
        assert "certificate that this phone does not trust (unable to get local issuer" in str(wrong.fault)
        assert "name the server's authority with --ca" in str(wrong.fault)
        assert isinstance(plain.fault, ServerError)
        assert "https://" in str(plain.fault)
        for phone in honest:
            phone.ca = files.ca
            phone.start(server.url)
        assert_close(server.result(), expected(2))


@pytest.mark.parametrize(("days", "when"), [(-398, "server.pem ended on"), (2, "server.pem begins on")])
def test_a_server_does_not_start_with_a_certificate_that_phones_refuse(
    days: int, when: str, tmp_path: Path
) -> None:
    files = make_certificates(tmp_path / "certs", now=datetime.now(UTC) + timedelta(days=days))
    made = bundle(tmp_path / "bundle", settings(1))
    with (
        pytest.raises(
            KeyFileError, match=rf"{when} .* every phone would refuse it; renew it \(pocketfed certs"
        ),
        Server(tmp_path / "state", made, tls=tls(files)),
    ):
        pass


def test_an_expired_certificate_is_named_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was good when the server began."""
    monkeypatch.setattr(Tls, "check", lambda self: None)
    files = make_certificates(tmp_path / "certs", now=datetime.now(UTC) - timedelta(days=400))
    made = bundle(tmp_path / "bundle", settings(1))
    with fleet(tmp_path, 1) as (phone,), Server(tmp_path / "state", made, tls=tls(files)) as server:
        phone.ca = files.ca
        phone.start(server.url)
        wait_for(lambda: phone.fault, "the phone says why")
    assert isinstance(phone.fault, ServerError)
    assert "certificate has expired" in str(phone.fault)


def test_https_where_there_is_none_is_told(tmp_path: Path) -> None:
    made = bundle(tmp_path / "bundle", settings(1))
    with fleet(tmp_path, 1) as (phone,), Server(tmp_path / "state", made) as server:
        phone.start(server.url.replace("http", "https"))
        wait_for(lambda: phone.fault, "the phone says why")
    assert isinstance(phone.fault, ServerError)
    assert "is it http:// ?" in str(phone.fault)

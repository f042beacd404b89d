"""`pocketfed certs` as a person meets it."""

from collections.abc import Callable
from pathlib import Path

from tests.conftest import Shown


def test_it_says_what_it_made_and_what_comes_next(tmp_path: Path, pocketfed: Callable[..., Shown]) -> None:
    folder = tmp_path / "certs"
    shown = pocketfed("certs", folder, "--host", "192.168.1.20", "--host", "fed.example.org")
    assert shown.code == 0, shown.err
    for name in ("ca.pem", "ca-key.pem", "server.pem", "server-key.pem"):
        assert (folder / name).exists()
        assert str(folder / name) in shown.out
    assert (
        f"pocketfed serve --bundle BUNDLE --cert {folder / 'server.pem'} --key {folder / 'server-key.pem'}"
        in shown.out
    )


def test_it_replaces_nothing_unasked(tmp_path: Path, pocketfed: Callable[..., Shown]) -> None:
    assert pocketfed("certs", tmp_path).code == 0
    ca = (tmp_path / "ca.pem").read_bytes()
    again = pocketfed("certs", tmp_path)
    assert (again.code, "--renew" in again.err, "--force" in again.err) == (2, True, True)
    renewed = pocketfed("certs", tmp_path, "--renew", "--host", "fed.example.org")
    assert renewed.code == 0
    assert "restart the server" in renewed.out
    assert (tmp_path / "ca.pem").read_bytes() == ca
    assert pocketfed("certs", tmp_path, "--force").code == 0
    assert (tmp_path / "ca.pem").read_bytes() != ca
    assert pocketfed("certs", tmp_path, "--force", "--renew").code == 2


def test_hosts_are_checked(tmp_path: Path, pocketfed: Callable[..., Shown]) -> None:
    shown = pocketfed("certs", tmp_path, "--host", "https://fed.example.org")
    assert shown.code == 2
    assert "without scheme and port" in shown.err
    assert "Traceback" not in shown.err

"""A phone accepts a later release that its key signed, its own again, and nothing else."""

from pathlib import Path

import pytest

from pocketfed.core.acceptance import Installed, accept
from pocketfed.core.bundle import Bundle
from pocketfed.core.errors import BundleError, OutdatedError, SignatureError
from pocketfed.core.release import MANIFEST
from pocketfed.core.signing import SigningKey, make_signing_key
from tests.bundles import release


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> SigningKey:
    return make_signing_key(tmp_path_factory.mktemp("keys") / "release")


@pytest.fixture(scope="module")
def second(tmp_path_factory: pytest.TempPathFactory, key: SigningKey) -> Bundle:
    return release(tmp_path_factory.mktemp("second") / "bundle", key, version=2)


def manifest(bundle: Bundle) -> bytes:
    return (bundle.folder / MANIFEST).read_bytes()


@pytest.mark.parametrize("version", [None, 1])
def test_a_new_phone_and_one_with_an_older_release_take_it(
    version: int | None, second: Bundle, key: SigningKey
) -> None:
    installed = None if version is None else Installed("0" * 64, version)
    found = accept(manifest(second), second.signature, key.public, installed, "here")
    assert (found.id, found.version, set(found.files)) == (second.id, 2, set(second.release.files))
    assert found.size == sum((second.folder / name).stat().st_size for name in second.release.files)
    assert found.files["empty.pte"].bytes == 0


def test_its_own_release_again_is_no_news_and_no_mistake(second: Bundle, key: SigningKey) -> None:
    own = Installed(second.id, 2)
    assert accept(manifest(second), second.signature, key.public, own, "here").id == second.id


@pytest.mark.parametrize(
    ("version", "message"), [(3, "version 2, older than version 3"), (2, "another one of version 2")]
)
def test_no_way_back_and_none_sideways(version: int, message: str, second: Bundle, key: SigningKey) -> None:
    with pytest.raises(OutdatedError, match=message):
        accept(manifest(second), second.signature, key.public, Installed("0" * 64, version), "here")


def test_nothing_is_read_that_is_not_signed(second: Bundle, key: SigningKey, tmp_path: Path) -> None:
    nonsense, stranger = b"{", make_signing_key(tmp_path / "stranger")
    for signature, message in (
        (None, "is not signed"),
        (second.signature, "changed after it was signed"),
        (stranger.sign(nonsense), "signed by the key"),
        ("", "signature is damaged"),
    ):
        with pytest.raises(SignatureError, match=f"here.*{message}"):
            accept(nonsense, signature, key.public, None, "here")
    with pytest.raises(BundleError, match="is damaged"):  # by the right key, which may err
        accept(nonsense, key.sign(nonsense), key.public, None, "here")


@pytest.mark.parametrize("size", ["-1", "1.5", '"1"', "true", "null"])
def test_sizes_are_sizes(size: str, second: Bundle, key: SigningKey) -> None:
    bad = manifest(second).replace(b'"bytes": 0', f'"bytes": {size}'.encode())
    with pytest.raises(BundleError, match="is no size in bytes"):
        accept(bad, key.sign(bad), key.public, None, "here")

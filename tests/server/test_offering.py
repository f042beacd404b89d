"""What the server offers of its bundle, over a real socket."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from starlette.applications import Starlette

from pocketfed.core.bundle import Bundle, read_bundle
from pocketfed.core.release import MANIFEST, SIGNATURE, read_release
from pocketfed.core.signing import SigningKey, make_signing_key
from pocketfed.server.offering import bundle_routes
from tests.bundles import PROGRAM, release
from tests.server.serving import serving

TRAIN = PROGRAM + b"1"


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> SigningKey:
    return make_signing_key(tmp_path_factory.mktemp("keys") / "release")


@pytest.fixture(scope="module")
def offered(tmp_path_factory: pytest.TempPathFactory, key: SigningKey) -> Bundle:
    return release(tmp_path_factory.mktemp("offered") / "bundle", key)


@pytest.fixture(scope="module")
def web(offered: Bundle) -> Iterator[httpx.Client]:
    with (
        serving(Starlette(routes=bundle_routes(offered))) as port,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client,
    ):
        yield client


def path(bundle: Bundle, name: str = "train.pte") -> str:
    return f"/bundles/{bundle.id}/{name}"


def test_what_is_current_can_be_checked_by_itself(
    web: httpx.Client, offered: Bundle, key: SigningKey
) -> None:
    answer = web.get("/bundle")
    said = answer.json()
    manifest = said["manifest"].encode()
    assert hashlib.sha256(manifest).hexdigest() == said["id"] == offered.id
    key.public.check(manifest, said["signature"])
    assert (said["version"], said["bytes"]) == (1, read_release(manifest, "").size)
    assert answer.headers["cache-control"] == "no-cache"
    again = web.get("/bundle", headers={"if-none-match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    head = web.head("/bundle")
    assert (head.status_code, head.content, head.headers["etag"]) == (200, b"", answer.headers["etag"])


def test_every_file_is_named_by_its_hash_and_may_be_kept_for_ever(web: httpx.Client, offered: Bundle) -> None:
    for name in (*offered.release.files, MANIFEST):
        answer = web.get(path(offered, name))
        assert answer.content == (offered.folder / name).read_bytes()
        assert answer.headers["etag"] == f'"{hashlib.sha256(answer.content).hexdigest()}"'
        assert "immutable" in answer.headers["cache-control"]
        for known in (answer.headers["etag"], f'"x", W/{answer.headers["etag"]}', "*"):
            same = web.get(path(offered, name), headers={"if-none-match": known, "range": "bytes=0-1"})
            assert (same.status_code, same.content) == (304, b"")
        assert web.get(path(offered, name), headers={"if-none-match": '"x"'}).status_code == 200
        head = web.head(path(offered, name))
        assert (head.content, head.headers["content-length"]) == (b"", str(len(answer.content)))


@pytest.mark.parametrize(
    ("wanted", "part"),
    [
        ("bytes=0-0", slice(0, 1)),
        ("bytes=1000-200000", slice(1000, 200_001)),
        (f"bytes={len(TRAIN) - 5}-", slice(-5, None)),
        ("bytes=-7", slice(-7, None)),
        ("bytes=10-99999999", slice(10, None)),
    ],
)
def test_ranges(wanted: str, part: slice, web: httpx.Client, offered: Bundle) -> None:
    answer = web.get(path(offered), headers={"range": wanted})
    assert (answer.status_code, answer.content) == (206, TRAIN[part])
    begin, end, _ = part.indices(len(TRAIN))
    assert answer.headers["content-range"] == f"bytes {begin}-{end - 1}/{len(TRAIN)}"


@pytest.mark.parametrize("wanted", [f"bytes={len(TRAIN)}-", "bytes=-0", "bytes=0-1,5-6", "bytes=0-,0-,0-"])
def test_ranges_that_are_not_met(wanted: str, web: httpx.Client, offered: Bundle) -> None:
    answer = web.get(path(offered), headers={"range": wanted})
    assert (answer.status_code, answer.headers["content-range"]) == (416, f"bytes */{len(TRAIN)}")


def test_a_range_of_what_one_had_before_is_only_given_if_it_is_the_same_file(
    web: httpx.Client, offered: Bundle
) -> None:
    etag = f'"{hashlib.sha256(TRAIN).hexdigest()}"'
    asked = {"range": "bytes=5-"}
    assert web.get(path(offered), headers=asked | {"if-range": etag}).status_code == 206
    other = web.get(path(offered), headers=asked | {"if-range": '"another"'})
    assert (other.status_code, other.content) == (200, TRAIN)


def test_only_names_in_the_manifest_lead_to_files(web: httpx.Client, offered: Bundle, tmp_path: Path) -> None:
    (offered.folder.parent / "secret").write_text("42")
    (offered.folder / "later.txt").write_text("not in the manifest")
    try:
        for name in (
            "later.txt", "%2e%2e/secret", "..%2fsecret", "Embed.mlpackage", "Embed.mlpackage/%2e%2e/train.pte",
            "%2e/train.pte", "/etc/passwd", "", SIGNATURE, "train.pte%00", "x" * 5000,
        ):  # fmt: skip
            answer = web.get(path(offered, name))
            assert answer.status_code == 404, name
            assert "no file" in answer.json()["detail"]
        assert "not '0000" in web.get(f"/bundles/{'0' * 64}/train.pte").json()["detail"]
    finally:
        (offered.folder / "later.txt").unlink()


def test_a_file_that_is_gone_and_a_method_that_is_not_meant(web: httpx.Client, offered: Bundle) -> None:
    (offered.folder / "embed.pte").rename(offered.folder.parent / "away")
    try:
        answer = web.get(path(offered, "embed.pte"))
        assert (answer.status_code, answer.json()["detail"]) == (
            404, "The file 'embed.pte' is missing on this server.",
        )  # fmt: skip
    finally:
        (offered.folder.parent / "away").rename(offered.folder / "embed.pte")
    assert web.post("/bundle", content=b"x").status_code == 405
    assert web.put(path(offered), content=b"x").status_code == 405


def test_one_that_nobody_signed_says_so(tmp_path: Path) -> None:
    app = Starlette(routes=bundle_routes(release(tmp_path / "unsigned", None)))
    with serving(app) as port:
        assert httpx.get(f"http://127.0.0.1:{port}/bundle", trust_env=False).json()["signature"] is None


def test_the_manifest_is_offered_byte_for_byte(tmp_path: Path, key: SigningKey) -> None:
    made = release(tmp_path / "bundle", key)
    windows = (made.folder / MANIFEST).read_bytes().replace(b"\n", b"\r\n")
    (made.folder / MANIFEST).write_bytes(windows)
    (made.folder / SIGNATURE).write_text(key.sign(windows))
    bundle = read_bundle(made.folder, key.public)
    with (
        serving(Starlette(routes=bundle_routes(bundle))) as port,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client,
    ):
        assert client.get("/bundle").json()["manifest"].encode() == windows

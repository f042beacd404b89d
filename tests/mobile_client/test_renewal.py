"""A phone's bundle from the server's shelf to its own, whatever happens on the way: all of it, or the one before."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pocketfed.core.acceptance import accept
from pocketfed.core.bundle import Bundle, read_bundle
from pocketfed.core.errors import BundleError, PocketfedError, ProgramError, ServerError, Unreachable
from pocketfed.core.release import MANIFEST, SIGNATURE, read_release
from pocketfed.core.signing import SigningKey, make_signing_key
from pocketfed.mobile_client.bundle_store import CURRENT, TRIES, TRYING, BundleStore
from pocketfed.mobile_client.connection import Retry
from pocketfed.mobile_client.delivery import Depot
from pocketfed.mobile_client.flower.home import Home
from pocketfed.mobile_client.flower.key import load_or_create_key
from pocketfed.mobile_client.flower.participation import Participation, Terms
from pocketfed.mobile_client.gate import Gate
from pocketfed.mobile_client.renewal import EVERY, RELEASES, Renewal, Renewed
from tests.bundles import PROGRAM, release
from tests.mobile_client.shop import Shop, open_shop


class Crash(BaseException):
    """The phone's process ends here: nothing may catch this."""


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> SigningKey:
    return make_signing_key(tmp_path_factory.mktemp("keys") / "release")


@pytest.fixture(scope="module")
def opened() -> Iterator[Shop]:
    with open_shop() as shop:
        yield shop


@pytest.fixture
def shop(opened: Shop) -> Shop:
    """With nothing on its shelf."""
    vars(opened).update(vars(Shop(opened.url)))
    return opened


@pytest.fixture
def first(shop: Shop, tmp_path: Path, key: SigningKey) -> Bundle:
    """Offered."""
    bundle = release(tmp_path / "first", key)
    shop.offer(bundle)
    return bundle


@pytest.fixture
def second(tmp_path: Path, key: SigningKey) -> Bundle:
    return release(tmp_path / "second", key, version=2)


def quick(url: str) -> Depot:
    return Depot(url, retry=Retry(tries=3, first=0.0), sleep=lambda seconds: None)


class Phone:
    """A phone's folder, and its process, which can begin anew.

    Attributes:
        naps: how long it has waited, in seconds; its only clock.
    """

    def __init__(self, folder: Path, shop: Shop, key: SigningKey) -> None:
        self.folder, self.shop, self.key = folder, shop, key
        self.naps: list[float] = []
        self.open_depots = ExitStack()
        self.check: Callable[[Bundle], object] = lambda bundle: None
        self.while_it_sleeps: Callable[[], None] = lambda: None
        self.refusal: str | None = None

    @property
    def store(self) -> BundleStore:
        return BundleStore(self.folder, self.key.public)

    def sleep(self, seconds: float) -> None:
        self.naps.append(seconds)
        self.while_it_sleeps()

    def renewal(self) -> Renewal:
        depot = self.open_depots.enter_context(quick(self.shop.url))
        return Renewal(
            self.store,
            depot,
            lambda bundle: self.check(bundle),
            refusal=lambda: self.refusal,
            sleep=self.sleep,
            monotonic=lambda: sum(self.naps),
        )

    def open(self) -> Bundle:
        return self.renewal().open()

    @property
    def folders(self) -> set[str]:
        return {path.name for path in self.folder.iterdir()}


@pytest.fixture
def phone(tmp_path: Path, shop: Shop, key: SigningKey) -> Iterator[Phone]:
    phone = Phone(tmp_path / "home" / "bundles", shop, key)
    with phone.open_depots:
        yield phone


def test_a_new_phone_installs_what_is_offered_and_later_only_what_has_changed(
    phone: Phone, shop: Shop, first: Bundle, second: Bundle, tmp_path: Path
) -> None:
    installed = phone.open()
    assert (installed.id, installed.folder) == (first.id, phone.folder / first.id)
    assert read_bundle(installed.folder, phone.key.public).id == first.id
    assert phone.folders == {CURRENT, first.id}
    shop.asked.clear()
    assert phone.open().id == first.id
    assert shop.asked == []
    shop.offer(second)
    assert phone.open().id == second.id
    assert shop.asked == [("train.pte", "")]  # the rest is the same as before, and whole
    assert phone.folders == {CURRENT, first.id, second.id}
    third = release(tmp_path / "third", phone.key, 3, embed=b"new")
    shop.offer(third)
    assert phone.open().id == third.id
    assert phone.folders == {CURRENT, second.id, third.id}


def test_nothing_is_fetched_of_a_bundle_for_a_newer_runtime(
    phone: Phone, shop: Shop, first: Bundle, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    newer = release(tmp_path / "newer", phone.key, 2, made_with="999.0")
    shop.offer(newer)
    with pytest.raises(BundleError, match=r"was made with executorch 999\.0, and the runtime here is older"):
        phone.open()
    shop.offer(first)
    assert phone.open().id == first.id
    shop.asked.clear()
    shop.offer(newer)
    assert phone.open().id == first.id
    assert shop.asked == []
    assert "install executorch 999.0 or later" in caplog.text


def flip(name: str) -> Callable[[Shop, Bundle], None]:
    def mutate(shop: Shop, bundle: Bundle) -> None:
        shop.alter = lambda path, body: (
            bytes([body[0] ^ 1]) + body[1:] if path.endswith(name) and body else body
        )

    return mutate


def edit(shop: Shop, bundle: Bundle, change: Callable[[dict[str, object]], object]) -> None:
    """The manifest, with its signature as it was."""
    values = json.loads((bundle.folder / MANIFEST).read_text())
    change(values)
    (bundle.folder / MANIFEST).write_text(json.dumps(values, indent=2))
    shop.offer(bundle)


def add(shop: Shop, bundle: Bundle) -> None:
    edit(shop, bundle, lambda values: values["files"].update(extra={"bytes": 0, "sha256": "0"}))  # type: ignore[attr-defined]


def swap(one: str, another: str) -> Callable[[Shop, Bundle], None]:
    def mutate(shop: Shop, bundle: Bundle) -> None:
        paths = bundle.folder / one, bundle.folder / another
        contents = [path.read_bytes() for path in paths]
        for path, content in zip(paths, reversed(contents), strict=True):
            path.write_bytes(content)

    return mutate


def foreign(shop: Shop, bundle: Bundle) -> None:
    stranger = make_signing_key(bundle.folder.parent / "stranger")
    shop.offer(release(bundle.folder.parent / "foreign", stranger, 2))


def outdated(shop: Shop, bundle: Bundle) -> None:
    shop.offer(OLDER[0])


def unsigned(shop: Shop, bundle: Bundle) -> None:
    (bundle.folder / SIGNATURE).unlink()
    shop.offer(bundle)


def html(shop: Shop, bundle: Bundle) -> None:
    shop.alter = lambda path, body: b"<" * len(body) if path == "/bundle" else body


def refuse(shop: Shop, bundle: Bundle) -> None:
    shop.status = 403


def unreadable(shop: Shop, bundle: Bundle) -> None:
    """Signed, whole, and with a layout that this version does not know."""
    name = "layout.json"
    content = (bundle.folder / name).read_bytes().replace(b"backbone", b"adapter_")
    values = json.loads((bundle.folder / MANIFEST).read_text())
    values["files"][name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (bundle.folder / name).write_bytes(content)
    (bundle.folder / MANIFEST).write_text(json.dumps(values))
    manifest = (bundle.folder / MANIFEST).read_bytes()
    (bundle.folder / SIGNATURE).write_text(KEYS[0].sign(manifest))
    shop.offer(Bundle(bundle.folder, read_release(manifest, "")))


KEYS: list[SigningKey] = []
OLDER: list[Bundle] = []
MUTATIONS: dict[str, tuple[Callable[[Shop, Bundle], object], str]] = {
    "a byte of the program": (flip("train.pte"), r"train\.pte of \S+ is not the file that the manifest describes"),
    "a byte of the embedding": (flip("embed.pte"), r"embed\.pte of \S+ is not the file that the manifest describes"),
    "a byte in a package": (flip("a model.bin"), r"Embed\.mlpackage/Data/a model\.bin of \S+ is not the file that the manifest describes"),
    "a byte of the weights": (flip("safetensors"), r"weights\.safetensors of \S+ is not the file that the manifest describes"),
    "a byte of the configuration": (flip("config.toml"), r"config\.toml of \S+ is not the file that the manifest describes"),
    "a byte of the layout": (flip("layout.json"), r"layout\.json of \S+ is not the file that the manifest describes"),
    "a file deleted": (lambda s, b: (b.folder / "embed.pte").unlink(), r"does not give embed\.pte \(HTTP 404\)"),
    "a file added": (add, "changed after it was signed"),
    "a file cut short": (lambda s, b: (b.folder / "embed.pte").write_bytes(b"emb"), r"embed\.pte of \S+ is not the file that the manifest describes"),
    "a file longer": (lambda s, b: (b.folder / "embed.pte").write_bytes(b"x" * 10**6), "sends more than the 9001"),
    "the manifest edited": (
        lambda s, b: edit(s, b, lambda values: values.update(version=9)), "changed after it was signed",
    ),
    "a file cut to nothing": (lambda s, b: (b.folder / "embed.pte").write_bytes(b""), r"embed\.pte of \S+ is not the file that the manifest describes"),
    "a smaller file swapped with a larger": (swap("embed.pte", "train.pte"), "sends more than the 9001"),
    "a larger file swapped with a smaller": (
        swap("embed.pte", "weights.safetensors"), r"embed\.pte of \S+ holds what the manifest has as weights\.safetensors: they",
    ),
    "an older release": (outdated, "version 1, older than version 2 that is installed"),
    "another key": (foreign, "was signed by the key"),
    "not signed": (unsigned, "is not signed; sign it where it is made"),
    "signed and unreadable": (unreadable, "is damaged .*the layout cannot be read"),
    "no bundle at all": (html, "offers is no bundle"),
    "forbidden": (refuse, "does not give its bundle"),
}  # fmt: skip


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_every_change_on_the_way_is_refused_and_the_installed_bundle_goes_on(
    mutation: str, phone: Phone, shop: Shop, tmp_path: Path, key: SigningKey, caplog: pytest.LogCaptureFixture
) -> None:
    KEYS[:] = [key]
    OLDER[:] = [release(tmp_path / "older", key, 1)]
    good = release(tmp_path / "good", key, 2, other=True)
    shop.offer(good)
    phone.open()
    before = {path: path.read_bytes() for path in phone.folder.rglob("*") if path.is_file()}
    third = release(tmp_path / "third", key, 3, embed=b"embedding!" * 900 + b"!")
    # Nothing of it is there, or it would not be fetched.
    files = third.release.files.values()
    assert [file for file in files if file.bytes and phone.store.find(file.sha256)] == []
    shop.offer(third)
    change, message = MUTATIONS[mutation]
    change(shop, third)
    fresh = Phone(tmp_path / "fresh", shop, key)
    if mutation != "an older release":
        with fresh.open_depots, pytest.raises(BundleError, match=message) as refused:
            fresh.open()
        assert "\n" not in str(refused.value)
        assert fresh.store.installed is None
    assert phone.open().id == good.id
    assert "going on with bundle" in caplog.text
    assert {path: path.read_bytes() for path in before} == before
    assert phone.store.open() is not None
    # And when that is over, it comes to the release at last.
    shop.alter, shop.status = lambda path, body: body, None
    shop.offer(release(tmp_path / "fourth", key, 4))
    assert phone.open().version == 4


@given(data=st.data())
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_bit_of_what_is_offered_changes_what_is_accepted(
    data: st.DataObject, phone: Phone, shop: Shop, first: Bundle
) -> None:
    """What stands beside the manifest and its signature may change, since nothing depends on it."""
    position, bit = data.draw(st.integers(0, 10_000)), data.draw(st.integers(0, 7))

    def alter(path: str, body: bytes) -> bytes:
        changed = bytearray(body)
        changed[position % len(body)] ^= 1 << bit
        return bytes(changed)

    shop.alter = alter
    with suppress(BundleError), quick(shop.url) as depot:
        offer = depot.offer()
        assert offer is not None
        assert accept(offer.manifest, offer.signature, phone.key.public, None, "here").id == first.id


def test_a_bundle_in_anothers_place_is_not_taken_for_it(
    phone: Phone, shop: Shop, first: Bundle, second: Bundle
) -> None:
    phone.open()
    shop.offer(second)
    phone.open()
    shutil.rmtree(phone.folder / second.id)
    shutil.copytree(first.folder, phone.folder / second.id)
    bundle = phone.store.open()
    assert bundle is not None
    assert (bundle.id, bundle.folder.name) == (first.id, first.id)


def test_a_program_that_this_phone_cannot_load_is_not_installed(
    phone: Phone, shop: Shop, first: Bundle, second: Bundle, caplog: pytest.LogCaptureFixture
) -> None:
    phone.open()
    shop.offer(second)

    def fail(bundle: Bundle) -> None:
        raise ProgramError("the program cannot be loaded: 0x20")

    phone.check = fail
    assert phone.open().id == first.id
    assert f"bundle {second.id[:12]} is of no use on this phone: the program cannot be loaded" in caplog.text
    phone.check = lambda bundle: None
    shop.asked.clear()
    assert phone.open().id == second.id
    assert shop.asked == []  # it was all there


def test_a_bundle_that_ends_the_process_whenever_it_is_tried_is_given_up(
    phone: Phone, shop: Shop, first: Bundle, second: Bundle, key: SigningKey, tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    """As one does on which the runtime aborts: nothing in the process can catch that."""
    phone.open()
    shop.offer(second)
    noted: list[bytes] = []

    def killed(bundle: Bundle) -> None:
        noted.append((phone.folder / TRYING).read_bytes())
        raise Crash

    phone.check = killed
    for _ in range(TRIES):
        with pytest.raises(Crash):
            phone.open()
        (phone.folder / TRYING).write_bytes(noted[-1])  # since a process that is killed removes nothing
    assert phone.open().id == first.id
    assert len(noted) == TRIES
    assert "a process ended while it tried bundle" in caplog.text
    assert f"bundle {second.id[:12]} of {shop.url} has failed here; serve a later version" in caplog.text
    phone.check = lambda bundle: None
    shop.offer(release(tmp_path / "third", key, 3))
    assert phone.open().version == 3
    assert not (phone.folder / TRYING).exists()


@pytest.mark.parametrize(
    ("etag", "kept"),
    [
        ('"abc"', '"abc"'),
        ('W/"abc"', 'W/"abc"'),
        ('"\u00e9"', ""),
        ('"a\nb"', ""),
        ("abc", ""),
        (f'"{"a" * 201}"', ""),
    ],
)
def test_tags_that_cannot_be_sent_back_are_not_kept(
    etag: str, kept: str, first: Bundle, phone: Phone
) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        offer = {"manifest": (first.folder / MANIFEST).read_text(), "signature": first.signature}
        content = httpx.ByteStream(json.dumps(offer).encode())
        return httpx.Response(200, stream=content, headers=[(b"etag", etag.encode("latin-1"))])

    with Depot("http://phone.test", transport=httpx.MockTransport(answer)) as depot:
        offer = depot.offer()
        assert offer is not None
        assert offer.etag == kept
        assert depot.offer(offer.etag) is not None


def test_a_bundle_that_fails_at_its_start_is_replaced_by_the_one_before(
    phone: Phone, shop: Shop, first: Bundle, second: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    phone.open()
    shop.offer(second)
    renewal, failure = phone.renewal(), BundleError("step_photo failed")
    assert renewal.open().id == second.id
    renewal.go_back(second, failure)
    (said,) = [record for record in caplog.records if record.levelname == "ERROR"]
    assert (
        f"bundle {second.id[:12]}, version 2 cannot be worked with: step_photo failed; going back"
        in said.message
    )
    assert renewal.open().id == first.id
    offer = Depot.offer
    with monkeypatch.context() as patch:  # a server that sends it again, as it knows no etags
        patch.setattr(Depot, "offer", lambda depot, etag: offer(depot))
        renewal.nap(EVERY)
    assert "has failed here; serve a later version" in caplog.text
    assert phone.store.open() is not None
    third = release(tmp_path / "third", phone.key, 3)
    shop.offer(third)
    assert renewal.open().id == third.id
    assert phone.folders == {CURRENT, first.id, third.id}  # what works is kept, and not what failed
    renewal.go_back(third, failure)
    with pytest.raises(BundleError, match="step_photo failed"):
        renewal.go_back(first, failure)
    assert phone.open().id == third.id  # another process tries it again


def test_a_phone_works_with_the_bundle_before_if_the_newest_does_not_start(
    phone: Phone, shop: Shop, first: Bundle, second: Bundle, tmp_path: Path
) -> None:
    """Neither starts here, which ends it at last."""
    phone.open()
    shop.offer(second)
    home = Home(tmp_path / "home")
    terms = Terms(shop.url, None, tmp_path, 0, 10**6, False, 60.0, 1, "")
    begun: list[int] = []

    def threads(bundle: Bundle) -> int:
        begun.append(bundle.version)
        raise ProgramError(f"version {bundle.version} has no step")

    part = Participation(terms, home, load_or_create_key(home.key), Gate(None), threads)
    with pytest.raises(PocketfedError, match="version 1 has no step"):
        part.work_with_newest(phone.renewal())
    assert begun == [2, 1]


@pytest.mark.parametrize("etags", [True, False])
def test_a_release_that_comes_while_a_new_phone_fetches_the_one_before_is_fetched_in_its_place(
    etags: bool, phone: Phone, shop: Shop, first: Bundle, second: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    def alter(path: str, body: bytes) -> bytes:
        if path.endswith("config.toml"):
            shop.offer(second)
        return body

    shop.alter = alter
    offer = Depot.offer
    if not etags:
        monkeypatch.setattr(Depot, "offer", lambda depot, etag: offer(depot))
    assert phone.open().id == second.id
    assert phone.folders == {CURRENT, second.id}
    names = [name for name, _ in shop.asked]
    assert names[names.index("config.toml") + 1] == "embed.pte"  # the one that was gone
    assert names.count("embed.pte") == 2


def test_a_server_that_changes_its_bundle_all_the_time_is_given_up(
    phone: Phone, shop: Shop, first: Bundle, second: Bundle
) -> None:
    looks: list[str] = []

    def alter(path: str, body: bytes) -> bytes:
        if path == "/bundle":
            looks.append(path)
        elif path.endswith("config.toml"):
            shop.offer(second if first.id in path else first)
        return body

    shop.alter = alter
    with pytest.raises(BundleError, match=r"does not give embed\.pte \(HTTP 404\)"):
        phone.open()
    assert len(looks) == RELEASES


def test_an_interrupted_download_is_gone_on_with(phone: Phone, shop: Shop, first: Bundle) -> None:
    size, step = len(PROGRAM) + 1, 40_000
    shop.cut = {"train.pte": step}
    depot = phone.open_depots.enter_context(quick(shop.url))
    path = phone.folder / "train.pte"
    with pytest.raises(Unreachable, match="cannot be reached"):
        depot.fetch(first.release, "train.pte", path)
    assert path.stat().st_size == 3 * step
    depot.fetch(first.release, "train.pte", path)
    assert path.read_bytes() == (first.folder / "train.pte").read_bytes()
    assert [asked for _, asked in shop.asked] == ["", *(f"bytes={n * step}-" for n in range(1, 6))]
    assert shop.sent == size  # not a byte twice
    depot.fetch(first.release, "train.pte", path)
    assert len(shop.asked) == 6
    # What lies there may be anything: of another file, or too much.
    for litter in (b"x" * 10, b"x" * size, b"x" * (size + 1)):
        shop.cut = {}
        path.write_bytes(litter)
        depot.fetch(first.release, "train.pte", path)
        assert path.read_bytes() == (first.folder / "train.pte").read_bytes()


def test_a_process_may_end_at_any_step(
    phone: Phone, shop: Shop, first: Bundle, second: Bundle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Before each file operation in turn, until one run gets through: what is there is always one whole bundle."""
    phone.open()
    shutil.copytree(phone.folder, tmp_path / "before")
    shop.offer(second)
    real = {(os, "fsync"): os.fsync, (os, "replace"): os.replace, (shutil, "rmtree"): shutil.rmtree}
    found = []
    for step in range(200):
        shutil.rmtree(phone.folder)
        shutil.copytree(tmp_path / "before", phone.folder)
        left = step

        def at(name: object) -> Callable[..., object]:
            def operate(*arguments: object, **options: object) -> object:
                nonlocal left
                left -= 1
                if left < 0:
                    raise Crash
                return real[name](*arguments, **options)  # type: ignore[index, operator]

            return operate

        with monkeypatch.context() as patch:
            for module, name in real:
                patch.setattr(module, name, at((module, name)))
            try:
                phone.open()
            except Crash:
                pass
            else:
                break
        good = phone.store.open()
        assert good is not None
        found.append(good.version)
        assert phone.open().id == second.id
        assert phone.folders == {CURRENT, first.id, second.id}
    assert len(found) > 10
    assert found == sorted(found)
    assert {1, 2} == set(found)


def test_a_damaged_bundle_is_replaced_by_the_one_before_and_mended(
    phone: Phone, shop: Shop, first: Bundle, second: Bundle, caplog: pytest.LogCaptureFixture
) -> None:
    phone.open()
    shop.offer(second)
    phone.open()
    (phone.folder / second.id / "train.pte").write_bytes(b"bad sector")
    shop.status = 503
    assert phone.open().id == first.id
    assert "cannot be used" in caplog.text
    shop.status = None
    shop.offer(first)  # and still there is no way back
    assert phone.open().id == first.id
    assert "version 1, older than version 2" in caplog.text
    shop.offer(second)
    assert phone.open().id == second.id
    assert read_bundle(phone.folder / second.id, phone.key.public).id == second.id
    assert phone.folders == {CURRENT, first.id, second.id}


@pytest.mark.parametrize("content", [None, b"", b"[]", b'{"id": 3, "version": "x", "former": "", "key": ""}'])
def test_a_pointer_that_is_lost_is_made_of_what_is_there(
    content: bytes | None, phone: Phone, shop: Shop, first: Bundle, second: Bundle
) -> None:
    phone.open()
    shop.offer(second)
    phone.open()
    (phone.folder / CURRENT).unlink()
    if content is not None:
        (phone.folder / CURRENT).write_bytes(content)
    shop.offer(first)
    assert phone.open().id == second.id


def test_bundles_of_another_key_count_for_nothing(
    phone: Phone, shop: Shop, second: Bundle, tmp_path: Path
) -> None:
    shop.offer(second)
    phone.open()
    phone.key = make_signing_key(tmp_path / "new")
    ours = release(tmp_path / "ours", phone.key, 1)
    shop.offer(ours)
    assert phone.open().id == ours.id
    assert phone.folders == {CURRENT, ours.id}


def test_a_full_disk_costs_nothing_that_is_there(
    phone: Phone, shop: Shop, first: Bundle, second: Bundle, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    phone.open()
    shop.offer(second)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        assert phone.open().id == first.id
    assert "(No space left on device); make room there; going on with bundle" in caplog.text
    assert phone.open().id == second.id


def test_a_phone_that_works_looks_now_and_then(
    phone: Phone, shop: Shop, first: Bundle, second: Bundle, tmp_path: Path
) -> None:
    renewal = phone.renewal()
    assert renewal.open().id == first.id
    shop.offer(second)
    for _ in range(9):
        renewal.nap(EVERY / 10)  # too early to look
    with pytest.raises(Renewed):
        renewal.nap(EVERY / 10)
    assert renewal.open().id == second.id
    # What is refused is looked at less and less often.
    shop.offer(first)
    seen: list[int] = []
    shop.alter = lambda path, body: (seen.append(len(phone.naps)), body)[1]  # type: ignore[func-returns-value]
    for _ in range(16):
        renewal.nap(EVERY)
    assert [n - 11 for n in dict.fromkeys(seen)] == [0, 2, 6, 14]
    assert phone.store.open() is not None


def test_nothing_is_asked_while_the_policy_refuses(
    phone: Phone, shop: Shop, first: Bundle, second: Bundle, caplog: pytest.LogCaptureFixture
) -> None:
    asked: list[str] = []
    shop.alter = lambda path, body: (asked.append(path), body)[1]  # type: ignore[func-returns-value]
    phone.refusal = "on a metered network"
    phone.while_it_sleeps = lambda: setattr(phone, "refusal", None if len(phone.naps) == 3 else phone.refusal)
    renewal = phone.renewal()
    assert renewal.open().id == first.id
    assert len(phone.naps) == 3
    assert caplog.text.count("on a metered network; there is no bundle yet, trying again") == 1

    shop.offer(second)
    asked.clear()
    phone.refusal = "on a metered network"
    assert phone.open().id == first.id  # after a restart
    renewal.nap(2 * EVERY)
    assert asked == []
    phone.refusal = None
    with pytest.raises(Renewed):
        renewal.nap(1.0)


def test_a_server_that_is_away_is_waited_for_by_those_that_have_nothing(
    phone: Phone, shop: Shop, first: Bundle, caplog: pytest.LogCaptureFixture
) -> None:
    shop.status = 503
    phone.while_it_sleeps = lambda: setattr(shop, "status", None if len(phone.naps) == 2 else 503)
    assert phone.open().id == first.id
    assert len(phone.naps) == 2
    shop.status = 503
    assert phone.open().id == first.id
    assert len(phone.naps) == 2
    assert "there is no bundle yet, trying again" in caplog.text


def test_a_server_without_bundles_is_named(phone: Phone, shop: Shop) -> None:
    with pytest.raises(BundleError, match="offers no bundle; serve one with pocketfed serve, or give it"):
        phone.open()
    phone.shop = Shop(url="ftp://127.0.0.1")
    with pytest.raises(BundleError, match="no http:// or https:// address"):
        phone.open()


def test_a_phone_with_a_bundle_goes_on_with_it_while_the_certificate_is_not_trusted(
    phone: Phone, shop: Shop, first: Bundle, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def expired(*arguments: object) -> None:
        raise ServerError("https://phone.test has a certificate that this phone does not trust")

    renewal = phone.renewal()
    renewal.open()
    monkeypatch.setattr("pocketfed.mobile_client.delivery.persist", expired)
    renewal.nap(EVERY)
    assert phone.open().id == first.id
    assert caplog.text.count("does not trust; going on with bundle") == 2

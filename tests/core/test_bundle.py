"""A bundle is whole, signed and itself, or it is refused with a sentence that says why."""

import hashlib
import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save

from pocketfed.core.bundle import Bundle, Contents, copy_bundle, read_bundle, write_bundle
from pocketfed.core.errors import BundleError, SignatureError
from pocketfed.core.layout import Layout, Role, Slice
from pocketfed.core.modality import Modality
from pocketfed.core.program_spec import Input, ProgramSpec
from pocketfed.core.release import LARGEST_MANIFEST, MANIFEST, SIGNATURE
from pocketfed.core.signing import SigningKey, make_signing_key

LAYOUT = Layout((Slice("backbone.w", (6,), Role.BACKBONE, 0),))
SPEC = ProgramSpec(6, 6, 4, {Modality.PHOTO: Input((2,), "uint8", 1)}, mixed=False, layout=LAYOUT.digest)
FILES = {"train.pte": b"learning", "embed.pte": b"embedding", "Embed.mlpackage/Data/model": b"core ml"}


def contents(version: int = 1, files: dict[str, bytes] = FILES) -> Contents:
    weights = np.linspace(0, 1, 6, dtype=np.float32)
    return Contents(SPEC, LAYOUT, weights, "rounds = 3\n", files, {"backbone": "tiny"}, version)


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> SigningKey:
    return make_signing_key(tmp_path_factory.mktemp("keys") / "release")


@pytest.fixture
def signed(tmp_path: Path, key: SigningKey) -> Bundle:
    return write_bundle(tmp_path / "bundle", contents(), key)


def test_what_was_written_is_read(signed: Bundle, key: SigningKey) -> None:
    again = read_bundle(signed.folder, key.public)
    assert again == signed
    assert (again.spec, again.version, again.manifest["backbone"]) == (SPEC, 1, "tiny")
    assert np.array_equal(again.weights, np.linspace(0, 1, 6, dtype=np.float32))
    assert again.read_layout() == LAYOUT
    assert again.program == b"learning"


def test_the_same_contents_give_the_same_bytes(tmp_path: Path, key: SigningKey) -> None:
    first, second = (write_bundle(tmp_path / name, contents(), key) for name in "ab")
    assert first.id == second.id
    for name in (*first.release.files, MANIFEST, SIGNATURE):
        assert (first.folder / name).read_bytes() == (second.folder / name).read_bytes()


def swap(folder: Path) -> None:
    (folder / "train.pte").rename(folder / "other")
    (folder / "embed.pte").rename(folder / "train.pte")
    (folder / "other").rename(folder / "embed.pte")


def raise_version(folder: Path) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps({**manifest, "version": 9}, indent=2))


def lead_out(folder: Path) -> None:
    (folder / "embed.pte").rename(folder.parent / "elsewhere")
    (folder / "embed.pte").symlink_to(folder.parent / "elsewhere")


MUTATIONS: dict[str, tuple[Callable[[Path], object], str]] = {
    "a file is gone": (lambda f: (f / "embed.pte").unlink(), r"embed\.pte cannot be read"),
    "a file too many": (lambda f: (f / "extra.pte").write_bytes(b""), r"extra\.pte is in no manifest"),
    "a hidden file": (lambda f: (f / ".x").write_bytes(b""), r"\.x is in no manifest"),
    "one too many in a package": (lambda f: (f / "Embed.mlpackage" / "x").write_bytes(b""), "is in no manifest"),
    "an empty folder": (lambda f: (f / "Other.mlpackage").mkdir(), r"Other\.mlpackage is in no manifest"),
    "a folder that is a link": (
        lambda f: (f / "Embed.mlpackage" / "extra").symlink_to(f.parent), "extra is a link, and a bundle has none",
    ),
    "a program that is a link": (lead_out, r"embed\.pte is a link, and a bundle has none"),
    "a pipe": (lambda f: os.mkfifo(f / "extra"), "extra is in no manifest"),
    "a manifest without end": (
        lambda f: os.truncate(f / MANIFEST, LARGEST_MANIFEST + 1), "is larger than 4194304 bytes",
    ),
    "a signature without end": (
        lambda f: os.truncate(f / SIGNATURE, 1 << 40), "signature is damaged",
    ),
    "two programs swapped": (swap, r"embed\.pte holds what the manifest has as train\.pte: they were swapped"),
    "a program in place of another": (
        lambda f: (f / "train.pte").write_bytes(b"embedding"), r"train\.pte holds what the manifest has as embed\.pte",
    ),
    "a program cut to nothing": (
        lambda f: (f / "train.pte").write_bytes(b""), r"train\.pte is not the file that the manifest describes",
    ),
    "the manifest edited": (raise_version, "changed after it was signed"),
    "the manifest gone": (lambda f: (f / MANIFEST).unlink(), "is no bundle"),
    "not signed": (lambda f: (f / SIGNATURE).unlink(), "is not signed"),
    "the signature damaged": (lambda f: (f / SIGNATURE).write_text("ed25519 x"), "signature is damaged"),
    "the signature no text": (lambda f: (f / SIGNATURE).write_bytes(b"\xff\xfe"), "signature is damaged"),
}  # fmt: skip


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_every_change_is_refused_with_words_of_its_own(
    mutation: str, signed: Bundle, key: SigningKey
) -> None:
    change, message = MUTATIONS[mutation]
    change(signed.folder)
    with pytest.raises(BundleError, match=message):
        read_bundle(signed.folder, key.public)


def test_another_key(signed: Bundle, tmp_path: Path) -> None:
    stranger = make_signing_key(tmp_path / "stranger")
    with pytest.raises(SignatureError, match="cannot be trusted: it was signed by the key"):
        read_bundle(signed.folder, stranger.public)


@given(data=st.data())
def test_no_byte_of_any_file_changes_unnoticed(
    tmp_path_factory: pytest.TempPathFactory, key: SigningKey, data: st.DataObject
) -> None:
    bundle = write_bundle(tmp_path_factory.mktemp("flip"), contents(), key)
    name = data.draw(st.sampled_from([*bundle.release.files, MANIFEST, SIGNATURE]))
    content = bytearray((bundle.folder / name).read_bytes())
    position = data.draw(st.integers(0, len(content) - 1))
    content[position] ^= 1 << data.draw(st.integers(0, 7))
    (bundle.folder / name).write_bytes(content)
    # Of the manifest and its signature nobody can tell which of the two has changed.
    said = f"{re.escape(name)} is not the file" if name in bundle.release.files else "cannot be trusted"
    with pytest.raises(BundleError, match=said):
        read_bundle(bundle.folder, key.public)


@pytest.mark.parametrize(
    "name",
    [
        "../secret",
        "/etc/passwd",
        "a/../../b",
        "manifest.json",
        ".",
        "",
        "..\\x",
        "a\0b",
        "a\nb",
        "\x1b[2J",
        "\ud800",
    ],
)
def test_paths_that_lead_elsewhere(name: str, signed: Bundle) -> None:
    manifest = json.loads((signed.folder / MANIFEST).read_text())
    manifest["files"][name] = manifest["files"]["train.pte"]
    (signed.folder / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match="is no path in a bundle"):
        read_bundle(signed.folder)


HUGE = "1e999"
"""JSON for more than there is."""


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (["version"], -5), (["version"], 0), (["version"], 1.9), (["version"], True), (["version"], HUGE),
        (["version"], "2"), (["version"], None), (["files", "embed.pte", "bytes"], HUGE), (["files"], []),
        (["files", "embed.pte", "bytes"], 5.0), (["spec", "weights"], HUGE), (["spec", "state"], -1),
        (["spec", "batch"], True), (["spec", "inputs", "photo", "shape"], [2.5]),
        (["spec", "inputs", "photo", "dtype"], "object"), (["programs"], 3), (["programs"], ["x"]),
        (["programs"], []), (["programs"], None), (["programs"], [["train.pte", {}]]),
        (["made_with"], 10**400), (["made_with"], json.loads("[" * 90 + "]" * 90)),
    ],
)  # fmt: skip
def test_values_that_no_manifest_has(path: list[str], value: object, signed: Bundle) -> None:
    manifest = json.loads((signed.folder / MANIFEST).read_text())
    part = manifest
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = value
    (signed.folder / MANIFEST).write_text(json.dumps(manifest).replace(f'"{HUGE}"', HUGE))
    with pytest.raises(BundleError, match=r"manifest\.json of .* is damaged") as refused:
        read_bundle(signed.folder)
    assert "\n" not in str(refused.value)


def slices(shape: str, offset: str) -> bytes:
    return f'[{{"name": "w", "shape": {shape}, "role": "backbone", "offset": {offset}}}]'.encode()


@pytest.mark.parametrize("version", [2**53, 2**64 - 1])
def test_a_version_that_other_languages_would_round(version: int, tmp_path: Path) -> None:
    assert write_bundle(tmp_path / "last", contents(2**53 - 1)).version == 2**53 - 1
    with pytest.raises(BundleError, match=f"has version {version}, .* with a lower one: pocketfed bundle"):
        write_bundle(tmp_path / "next", contents(version))


def spoilt(signed: Bundle, name: str, content: bytes, **spec: int) -> Path:
    """The bundle with another file, and a manifest that has its hash."""
    manifest = json.loads((signed.folder / MANIFEST).read_text())
    manifest["files"][name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    manifest["spec"].update(spec)
    (signed.folder / name).write_bytes(content)
    (signed.folder / MANIFEST).write_text(json.dumps(manifest))
    return signed.folder


@pytest.mark.parametrize(
    "layout",
    [
        b"[" * 200_000, b"{}", b"\xff", b"null", b'[{"name": "w", "shape": [6], "role": "adapter", "offset": 0}]',
        *(slices(f"[{length}]", "0") for length in (HUGE, "-1", "6.0", "2.9", "true", '"6"', "null", "[6]", 2**80)),
        *(slices("[6]", offset) for offset in (HUGE, "1", "-1", "0.0", "0.9", "false", '"0"', "null")),
        slices("[-2, -3]", "0"), slices("6", "0"), slices('"6"', "0"),
    ],
)  # fmt: skip
def test_a_layout_that_nobody_reads(layout: bytes, signed: Bundle) -> None:
    with pytest.raises(BundleError, match="is damaged") as refused:
        read_bundle(spoilt(signed, "layout.json", layout))
    assert "\n" not in str(refused.value)


def test_weights_are_float32_and_as_many_as_the_layout_has(signed: Bundle) -> None:
    count = signed.spec.weights
    for size, dtype in ((count, np.float64), (count, np.int32), (count + 1, np.float32)):
        with pytest.raises(BundleError, match="contradicts itself"):
            read_bundle(
                spoilt(signed, "weights.safetensors", save({"weights": np.zeros(size, dtype)}), weights=size)
            )


def test_a_file_larger_than_memory_is_not_read(signed: Bundle) -> None:
    os.truncate(signed.folder / "train.pte", 1 << 42)
    with pytest.raises(BundleError, match=r"train\.pte is not the file that the manifest describes"):
        read_bundle(signed.folder)


def test_a_manifest_is_utf_8(signed: Bundle) -> None:
    """As that is how phones get it."""
    text = (signed.folder / MANIFEST).read_text()
    for encoding in ("utf-16", "utf-8-sig"):
        (signed.folder / MANIFEST).write_text(text, encoding=encoding)
        with pytest.raises(BundleError, match=r"manifest\.json of .* is damaged"):
            read_bundle(signed.folder)


def test_a_manifest_must_agree_with_its_files(signed: Bundle) -> None:
    """A size that is wrong would make a bundle that nobody can fetch; a program elsewhere is none of the bundle's."""
    manifest = json.loads((signed.folder / MANIFEST).read_text())
    wrong = {"bytes": 5, "sha256": manifest["files"]["embed.pte"]["sha256"]}
    for change, message in (
        (
            {"files": {**manifest["files"], "embed.pte": wrong}},
            r"embed\.pte is not the file that the manifest",
        ),
        ({"programs": {"../other.pte": {}}}, r"'\.\./other\.pte' is a program and no file"),
    ):
        (signed.folder / MANIFEST).write_text(json.dumps({**manifest, **change}))
        with pytest.raises(BundleError, match=message):
            read_bundle(signed.folder)
    programs: dict[str, object] = {"embed.pte": {}, "Embed.mlpackage": {}}
    (signed.folder / MANIFEST).write_text(json.dumps({**manifest, "programs": programs}))
    assert read_bundle(signed.folder).manifest["programs"] == programs


def test_another_format_says_what_to_do(signed: Bundle) -> None:
    manifest = json.loads((signed.folder / MANIFEST).read_text())
    (signed.folder / MANIFEST).write_text(json.dumps({**manifest, "format": 1}))
    with pytest.raises(BundleError, match="has format 1, this version reads 2; make the bundle anew"):
        read_bundle(signed.folder)


def test_writing_over_a_bundle_leaves_nothing_of_it(signed: Bundle, key: SigningKey) -> None:
    (signed.folder / ".train.pte.abc").write_bytes(b"half")  # of a process that was killed
    assert (signed.folder / "Embed.mlpackage" / "Data").is_dir()
    smaller = write_bundle(signed.folder, contents(2, {"train.pte": b"newer"}))
    assert smaller.version == 2
    assert not (signed.folder / SIGNATURE).exists()
    assert tuple(read_bundle(signed.folder).release.files) == (
        "config.toml",
        "layout.json",
        "train.pte",
        "weights.safetensors",
    )


def test_a_copy_is_the_same_bundle(signed: Bundle, tmp_path: Path, key: SigningKey) -> None:
    copy = copy_bundle(signed, tmp_path / "copy")
    assert copy.id == signed.id
    assert read_bundle(tmp_path / "copy", key.public).release.files == signed.release.files

"""keys, bundle, inspect and verify, as typed, on a small network with small captures."""

import dataclasses
import json
import re
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.numpy import save

from pocketfed.core.bundle import Bundle, Contents, read_bundle, write_bundle
from pocketfed.core.errors import ExportError
from pocketfed.core.head import Head, Trial
from pocketfed.core.learning_step import Method, methods
from pocketfed.core.learning_task import LearningTask
from pocketfed.core.modality import Modality
from pocketfed.core.release import PROGRAM
from pocketfed.core.signing import make_signing_key, read_signing_key
from pocketfed.export.executorch import Program
from pocketfed.export.mil.operators import OPERATORS
from pocketfed.export.program import export_program
from pocketfed.simulator import bundling, verification
from pocketfed.simulator.bundling import Options, build_bundle
from pocketfed.simulator.classifiers import about_heads, head_files
from pocketfed.simulator.config import Config
from pocketfed.simulator.config_file import build_config
from pocketfed.simulator.parity import CAPTURES_EACH, Parity, distance, in_batches, lost_of
from pocketfed.simulator.program import task_of
from pocketfed.simulator.verification import useless_int8
from tests.conftest import Shown
from tests.simulator.capture_folders import make_captures
from tests.small_network import SMALL

Run = Callable[..., Shown]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a key, photos, a configuration, and the bundle that was made from them, for batches beyond what is verified."""
    folder = tmp_path_factory.mktemp("bundles")
    make_signing_key(folder / "release")
    make_captures(folder / "captures", 90)
    (folder / "small.py").write_text(SMALL)
    build_bundle(
        config(folder),
        None,
        folder / "made",
        Options(version=3, batch=BATCH),
        read_signing_key(folder / "release"),
        said.append,
    )
    return folder


BATCH = CAPTURES_EACH + 6
said: list[str] = []


def config(folder: Path) -> Config:
    captures = {"photos": str(folder / "captures" / "photos"), "side": 16}
    learning = {"batch": 4, "backbone": "small", "temperature": 0.25}
    return build_config({"captures": captures, "learning": learning, "plugins": [str(folder / "small.py")]})


@pytest.fixture
def made(folder: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    shutil.copytree(folder / "made", tmp_path / "made")
    return tmp_path / "made"


def test_a_bundle_has_what_an_app_needs(folder: Path) -> None:
    bundle = read_bundle(folder / "made", read_signing_key(folder / "release").public)
    assert bundle.version == 3
    programs = bundle.manifest["programs"]
    assert list(programs) == [
        "train.pte", "embed_photo.pte", "embed_photo_int8.pte", "EmbedPhoto.mlpackage", "embed_photo_coreml.pte",
        "TrainPhoto.mlpackage",
    ]  # fmt: skip
    gradient = programs["TrainPhoto.mlpackage"]
    assert gradient["experimental"]
    assert [value["name"] for value in gradient["inputs"]] == ["weights", "captures", "noise", "hyper"]
    assert [value["shape"] for value in gradient["outputs"]] == [[1], [bundle.spec.weights]]
    step = programs["train.pte"]["methods"]["step_photo"]
    assert [value["name"] for value in step["inputs"]] == [
        "weights", "state", "weights that the round began with", "photo captures", "photo noise", "hyper",
    ]  # fmt: skip
    assert step["inputs"][3] == {
        "name": "photo captures", "shape": [4, 16, 16, 3], "dtype": "uint8", "unit": "sRGB, 0 to 255",
    }  # fmt: skip
    assert step["inputs"][-1]["names"][-2:] == ["epsilon", "photo captures that count"]
    assert step["inputs"][-1]["shape"] == [len(step["inputs"][-1]["names"])]
    assert gradient["inputs"][-1]["names"] == step["inputs"][-1]["names"]
    every = [
        value
        for program in programs.values()
        for about in program.get("methods", {"main": program}).values()
        for value in (*about["inputs"], *about["outputs"])
    ]
    assert all(value["unit"] for value in every)
    assert programs["train.pte"]["least"] == f"ExecuTorch {bundle.manifest['made_with']['executorch']}"
    assert programs["EmbedPhoto.mlpackage"]["least"] == "iOS 17"
    assert programs["embed_photo_coreml.pte"]["least"] == programs["train.pte"]["least"]
    assert programs["embed_photo_coreml.pte"]["system"] == "iOS 17"
    noise = bundle.manifest["noise"]["photo"]
    assert noise["distribution"] == "uniform in [0, 1)"
    assert noise["names"][:2] == ["area", "aspect"]
    assert step["inputs"][4]["shape"] == [4, 2, len(noise["names"])]
    assert bundle.manifest["hyper"][0] == {"name": "learning_rate", "default": 0.03, "range": "above 0"}
    assert [entry["default"] for entry in bundle.manifest["hyper"]][4] == 0.25, "as the configuration has it"
    assert bundle.manifest["captures"]["photo"]["unit"] == "sRGB, 0 to 255"
    assert "square" in bundle.manifest["captures"]["photo"]["prepare"]
    assert set(bundle.manifest["made_with"]) == {"executorch", "torch", "torchao", "coremltools"}
    assert "Core ML for photos" in said


def test_inspect(folder: Path, pocketfed: Run) -> None:
    shown = pocketfed("inspect", folder / "made")
    assert shown.code == 0
    for expected in (
        "version 3",
        "step_photo",
        "1 XNNPACK",
        "int8",
        "EmbedPhoto.mlpackage",
        "1 Core ML",
        "takes captures RGB",
        " Conv2d, ",
        "2 conv",
        " more",
        "of these on portable kernels 1 dim_order_ops::_to_dim_order_copy",
    ):
        assert expected in shown.out
    found = json.loads(pocketfed("inspect", folder / "made", "--json").out)
    assert {row["file"]: row["slow"] for row in found["programs"]}["train.pte"] == []
    portable = {row["file"]: row["portable"] for row in found["programs"]}
    assert portable["embed_photo.pte"] == {"dim_order_ops::_to_dim_order_copy": 1}, "it is cheap, and listed"
    assert portable["EmbedPhoto.mlpackage"] == {}
    operators = {(row["file"], row["method"]): row["operators"] for row in found["programs"]}
    assert operators["embed_photo.pte", "embed_photo"]["Conv2d"] >= 2
    assert operators["EmbedPhoto.mlpackage", "main"]["conv"] == 2
    assert operators["embed_photo_coreml.pte", "embed_photo"]["conv"] == 2
    assert "const" not in operators["EmbedPhoto.mlpackage", "main"]
    small = pocketfed("inspect", folder / "made", "--max-mb", "0.1")
    assert small.code == 1
    assert "more than 0.1; leave out what the app does not need" in small.err


def test_verify_compares_every_program(folder: Path, pocketfed: Run) -> None:
    shown = pocketfed("verify", folder / "made", "--key", folder / "release.pub")
    assert shown.code == 0, shown.out
    # Loss, weights, state, features; two inferences; exact and declared, twice; loss and gradient.
    assert shown.out.count("ok") == 12
    assert f"package inside, batch of {BATCH}" in shown.out
    assert "signed by" in shown.out
    quick = pocketfed("verify", folder / "made", "--signature-only", "--key", folder / "release.pub")
    assert quick.code == 0
    assert "signed by" in quick.out
    assert "ok" not in quick.out


def test_the_signature_alone_is_not_checked_without_a_key(folder: Path, pocketfed: Run) -> None:
    shown = pocketfed("verify", folder / "made", "--signature-only")
    assert (shown.code, "add --key FILE" in shown.err) == (2, True)


@given(st.integers(1, 9), st.integers(1, 20), st.data())
def test_every_capture_counts_and_every_place_in_a_batch(count: int, batch: int, data: st.DataObject) -> None:
    captures = np.arange(1, count + 1, dtype=np.uint8)[:, None]
    wrong = data.draw(st.integers(0, -(-count // batch) * batch - 1))
    given = 0

    def run(part: NDArray[np.uint8]) -> torch.Tensor:
        nonlocal given
        assert part.shape == (batch, 1)
        found = torch.from_numpy(part).float()
        if given <= wrong < given + batch:
            found[wrong - given] += 0.5
        given += batch
        return found

    wanted = torch.from_numpy(captures).float()
    assert distance(*in_batches(run, captures, batch, wanted)) == pytest.approx(0.5 / count)
    given = -1000
    assert distance(*in_batches(run, captures, batch, wanted)) == 0


def test_a_program_that_ignores_its_captures_disagrees_although_it_is_near_all_results() -> None:
    wanted = 10 + torch.rand(64, 8, generator=torch.Generator().manual_seed(0))
    constant = wanted.mean(0).expand_as(wanted)
    row = Parity("a.pte", "embed_photo", "int8", distance(constant, wanted), lost=lost_of(constant, wanted))
    assert row.error < row.bound
    assert not row.agrees
    rounded = (wanted * 64).round() / 64
    assert Parity(
        "a.pte", "embed_photo", "int8", distance(rounded, wanted), lost=lost_of(rounded, wanted)
    ).agrees


def contents_of(bundle: Bundle) -> Contents:
    """Of which the same bundle can be written, or another."""
    files = {
        name: (bundle.folder / name).read_bytes()
        for name in bundle.release.files
        if "/" in name or name.endswith("pte")
    }
    own = ("format", "version", "spec", "files")
    about = {name: value for name, value in bundle.manifest.items() if name not in own}
    config = (bundle.folder / "config.toml").read_text()
    return Contents(bundle.spec, bundle.read_layout(), bundle.weights, config, files, about)


def test_programs_that_the_manifest_does_not_name_are_not_passed_over(
    folder: Path, tmp_path: Path, pocketfed: Run
) -> None:
    contents = contents_of(read_bundle(folder / "made"))
    silent = {**contents.about, "programs": {}}
    write_bundle(tmp_path / "other", dataclasses.replace(contents, about=silent))
    shown = pocketfed("verify", tmp_path / "other")
    assert shown.code == 2
    assert "files that are no part of it by its manifest (Embed" in shown.err
    assert "embed_photo.pte" in shown.err


HIDDEN = {
    "sub/x.pte": "sub",
    "X.mlpackage/Manifest.json": "X.mlpackage",
    "EmbedPhoto.mlpackage/x.pte": "EmbedPhoto.mlpackage/x.pte",
    "evil.PTE": "evil.PTE",
    "notes.txt": "notes.txt",
}


@pytest.mark.parametrize("hidden", HIDDEN)
def test_files_that_no_entry_describes_are_not_passed_over(
    hidden: str, folder: Path, tmp_path: Path, pocketfed: Run
) -> None:
    contents = contents_of(read_bundle(folder / "made"))
    files = {**contents.files, hidden: b"anything"}
    write_bundle(tmp_path / "other", dataclasses.replace(contents, files=files))
    shown = pocketfed("verify", tmp_path / "other")
    assert (shown.code, f"({HIDDEN[hidden]})" in shown.err) == (2, True)


WRONG_ENTRIES = {
    "no methods": ("embed_photo.pte", {"methods": {}}, "has the methods embed_photo, but the manifest names none"),
    "other methods": ("embed_photo.pte", {"methods": {"x": {}}}, "embed_photo, but the manifest names x"),
    "no methods of the step": ("train.pte", {"methods": {}}, "step_photo, but the manifest names none"),
    "a list of methods": ("embed_photo.pte", {"methods": ["embed_photo"]}, "embed_photo.pte does not run"),
    "no batches": ("EmbedPhoto.mlpackage", {"batches": []}, "[] at programs.EmbedPhoto.mlpackage.batches"),
    "empty batches": ("EmbedPhoto.mlpackage", {"batches": [0]}, "0 at programs.EmbedPhoto.mlpackage.batches[0]"),
    "another precision": ("embed_photo.pte", {"precision": "int8"}, "'int8' at programs.embed_photo.pte.precision"),
    "another backend": ("embed_photo.pte", {"backend": "vulkan"}, "'vulkan' at programs.embed_photo.pte.backend"),
    "an older runtime": ("embed_photo.pte", {"least": "ExecuTorch 0.1"}, "'ExecuTorch 0.1' at programs.embed_photo.pte.least"),
    "another front end": ("EmbedPhoto.mlpackage", {"front_end": "float16"}, "'float16' at programs.EmbedPhoto.mlpackage"),
    "an older system": ("EmbedPhoto.mlpackage", {"least": "iOS 3"}, "'iOS 3' at programs.EmbedPhoto.mlpackage.least"),
    "no such weights": ("EmbedPhoto.mlpackage", {"weights": "int1"}, "'int1' is not a valid Weights"),
    "other weights": ("EmbedPhoto.mlpackage", {"weights": "int8"}, "stored as float16, the manifest says int8"),
}  # fmt: skip


@pytest.mark.parametrize(("file", "entry", "expected"), WRONG_ENTRIES.values(), ids=WRONG_ENTRIES)
def test_what_the_manifest_says_of_a_program_cannot_hide_it(
    file: str, entry: dict[str, Any], expected: str, folder: Path, tmp_path: Path, pocketfed: Run
) -> None:
    contents = contents_of(read_bundle(folder / "made"))
    entries = contents.about["programs"]
    needed = {PROGRAM, file}  # the others take their time
    files = {name: content for name, content in contents.files.items() if name.partition("/")[0] in needed}
    programs = {name: {**entries[name], **(entry if name == file else {})} for name in needed}
    about = {**contents.about, "programs": programs}
    write_bundle(tmp_path / "other", dataclasses.replace(contents, files=files, about=about))
    shown = pocketfed("verify", tmp_path / "other")
    assert shown.code == 2
    assert file in shown.err
    assert expected in shown.err


WRONG_WORDS: dict[str, tuple[list[str | int], object, str]] = {
    "another rate": (["hyper", 0, "default"], 0.5, "0.5 at hyper[0].default, its configuration makes 0.03 of it"),
    "hyper in another order": (["hyper"], [], "[] at hyper"),
    "noise of another kind": (["noise", "photo", "distribution"], "normal", "'normal' at noise.photo.distribution"),
    "captures of another unit": (["captures", "photo", "unit"], "0 to 1", "'0 to 1' at captures.photo.unit"),
    "another objective": (["objective"], "byol", "'byol' at objective, its configuration makes 'nt-xent' of it"),
    "true is not one": (["features"], True, "True at features"),
    "inputs of another shape": (
        ["programs", "train.pte", "methods", "step_photo", "inputs", 4, "shape", 1], 1,
        "1 at programs.train.pte.methods.step_photo.inputs[4].shape[1], its configuration makes 2 of it",
    ),
    "a step's numbers in another order": (
        ["programs", "train.pte", "methods", "step_photo", "inputs", 5, "names", 0], "momentum", "inputs[5].names[0]",
    ),
    "outputs of another type": (
        ["programs", "embed_photo.pte", "methods", "embed_photo", "outputs", 0, "dtype"], "int3", "outputs[0].dtype",
    ),
    "a batch that fills memory": (
        ["programs", "embed_photo.pte", "methods", "embed_photo", "inputs", 0, "shape", 0], 10**13,
        "embed_photo.pte takes 10000000000000 captures at once",
    ),
    "another shape of a package's output": (
        ["programs", "EmbedPhoto.mlpackage", "outputs", 0, "shape", 1], 5, "5 at programs.EmbedPhoto.mlpackage.outputs",
    ),
    "a head that is elsewhere": (
        ["classifiers"], {"photo": {"head": "../../etc/hostname"}}, "has no file '../../etc/hostname'",
    ),
    "a head of nothing": (["classifiers"], {"smells": {}}, "manifest.json cannot be read as this version does"),
}  # fmt: skip


@pytest.mark.parametrize(("path", "word", "expected"), WRONG_WORDS.values(), ids=WRONG_WORDS)
def test_every_word_that_an_app_would_believe_is_checked(
    path: list[str | int], word: object, expected: str, folder: Path, tmp_path: Path, pocketfed: Run
) -> None:
    contents = contents_of(read_bundle(folder / "made"))
    about = json.loads(json.dumps(contents.about))
    needed = {"train.pte", str(path[1]) if path[0] == "programs" else "train.pte"}
    about["programs"] = {name: entry for name, entry in about["programs"].items() if name in needed}
    part: Any = about
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = word
    files = {name: content for name, content in contents.files.items() if name.partition("/")[0] in needed}
    write_bundle(tmp_path / "other", dataclasses.replace(contents, files=files, about=about))
    shown = pocketfed("verify", tmp_path / "other")
    assert (shown.code, expected in shown.err, len(shown.err.splitlines())) == (2, True, 1), shown.err


def test_a_package_of_another_name_is_refused(folder: Path, tmp_path: Path, pocketfed: Run) -> None:
    contents = contents_of(read_bundle(folder / "made"))
    old, new = "EmbedPhoto.mlpackage", "OddPhoto.mlpackage"
    files = {
        name.replace(old, new): content
        for name, content in contents.files.items()
        if name.partition("/")[0] in (PROGRAM, old)
    }
    entries = contents.about["programs"]
    about = {**contents.about, "programs": {PROGRAM: entries[PROGRAM], new: entries[old]}}
    write_bundle(tmp_path / "other", dataclasses.replace(contents, files=files, about=about))
    shown = pocketfed("verify", tmp_path / "other")
    assert (shown.code, "OddPhoto.mlpackage does not run ('OddPhoto.mlpackage'" in shown.err) == (2, True), (
        shown.err
    )


def test_a_step_has_no_methods_that_nobody_compares(folder: Path, tmp_path: Path, pocketfed: Run) -> None:
    contents = contents_of(read_bundle(folder / "made"))
    files = {PROGRAM: contents.files["embed_photo.pte"]}
    about = {"plugins": contents.about["plugins"]}
    write_bundle(tmp_path / "other", dataclasses.replace(contents, files=files, about=about))
    shown = pocketfed("verify", tmp_path / "other")
    assert shown.code == 2
    assert "has the methods embed_photo, but its configuration asks for embed_photo, step_photo" in shown.err


@pytest.mark.parametrize("entry", [{}, None, {"runtime": "executorch", "precision": "int8", "methods": []}])
def test_inspect_says_which_program_the_manifest_does_not_describe(
    entry: object, folder: Path, tmp_path: Path, pocketfed: Run
) -> None:
    contents = contents_of(read_bundle(folder / "made"))
    about = {**contents.about, "programs": {**contents.about["programs"], "train.pte": entry}}
    write_bundle(tmp_path / "other", dataclasses.replace(contents, about=about))
    shown = pocketfed("inspect", tmp_path / "other")
    assert (shown.code, "does not describe train.pte" in shown.err) == (2, True)


@pytest.mark.parametrize(
    ("file", "damage"),
    [
        (PROGRAM, lambda content: b"no program"),
        (PROGRAM, lambda content: content.replace(b"XN01", b"XN99")),
        ("embed_photo_coreml.pte", lambda content: content.replace(b"main", b"niam")),
        ("EmbedPhoto.mlpackage/Data/com.apple.CoreML/model.mlmodel", lambda content: b"no model"),
        ("EmbedPhoto.mlpackage/Data/com.apple.CoreML/model.mlmodel", lambda content: b""),
    ],
)
def test_inspect_names_the_program_that_it_cannot_read(
    file: str, damage: Callable[[bytes], bytes], folder: Path, tmp_path: Path, pocketfed: Run
) -> None:
    contents = contents_of(read_bundle(folder / "made"))
    damaged = {**contents.files, file: damage(contents.files[file])}
    write_bundle(tmp_path / "other", dataclasses.replace(contents, files=damaged))
    shown = pocketfed("inspect", tmp_path / "other")
    assert (shown.code, shown.out, len(shown.err.splitlines())) == (2, "", 1), shown.err
    assert shown.err.startswith(f"Error: {tmp_path / 'other' / file.partition('/')[0]}")
    assert re.search("(make|build) the bundle anew$", shown.err), shown.err


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"classifiers": {"photo": {}}}, "does not describe classifiers and plug-ins"),
        ({"classifiers": {"photo": {"labels": ["a"], "accuracy": "x", "held_out": 1}}}, "does not describe classifiers"),
        ({"features": None}, None),
        ({"backbone": "[/x]"}, None),
        ({"plugins": [{}]}, "does not describe classifiers and plug-ins"),
    ],
)  # fmt: skip
def test_inspect_reads_what_anybody_may_have_written(
    change: dict[str, object], expected: str | None, folder: Path, tmp_path: Path, pocketfed: Run
) -> None:
    contents = contents_of(read_bundle(folder / "made"))
    files = {PROGRAM: contents.files[PROGRAM]}
    programs = {PROGRAM: contents.about["programs"][PROGRAM]}
    about = {**contents.about, "programs": programs, **change}
    write_bundle(tmp_path / "other", dataclasses.replace(contents, files=files, about=about))
    shown = pocketfed("inspect", tmp_path / "other")
    if expected is None:
        assert shown.code == 0, shown.err
        assert f"{about['backbone']}, {contents.spec.weights:,} weights" in shown.out
    else:
        assert (shown.code, expected in shown.err) == (2, True), shown.err


CURSOR, CLIPBOARD = "\x1b[2J\x1b[H\nSIGNED AND VERIFIED", "small\x1b]52;c;aGFoYQ==\x07\ud800"


def test_a_manifest_cannot_drive_the_terminal(folder: Path, tmp_path: Path, pocketfed: Run) -> None:
    contents = contents_of(read_bundle(folder / "made"))
    files = {PROGRAM: contents.files[PROGRAM]}
    entry = json.loads(json.dumps(contents.about["programs"][PROGRAM]))
    entry["methods"]["step_photo"]["inputs"][0] |= {"name": CURSOR, "dtype": CURSOR, "shape": [CURSOR]}
    about = {
        **contents.about,
        "backbone": CLIPBOARD,
        "programs": {PROGRAM: {**entry, "precision": CURSOR}},
        "classifiers": {CURSOR: {"labels": [CURSOR, "b"], "accuracy": 0.5, "held_out": 4, "chance": 0.5}},
        "plugins": [{"name": CURSOR, "sha256": CLIPBOARD}],
    }
    write_bundle(tmp_path / "other", dataclasses.replace(contents, files=files, about=about))
    shown = pocketfed("inspect", tmp_path / "other")
    assert shown.code == 0, shown.err
    assert shown.out.count("SIGNED AND VERIFIED") == 7
    assert shown.out.replace("\n", "").isprintable()
    assert not [line for line in shown.out.splitlines() if line.startswith("SIGNED")]
    refused = pocketfed("verify", tmp_path / "other")
    assert (refused.code, "was made with" in refused.err) == (2, True)
    assert (refused.err.removesuffix("\n").isprintable(), refused.out.count("\n")) == (True, 1)
    listed = pocketfed("inspect", tmp_path / "other", "--json")
    assert listed.out.replace("\n", "").isprintable()
    assert json.loads(listed.out)["manifest"]["backbone"] == CLIPBOARD


def test_a_configuration_of_thousands_of_brackets_is_a_mistake(
    folder: Path, tmp_path: Path, pocketfed: Run
) -> None:
    contents = dataclasses.replace(contents_of(read_bundle(folder / "made")), config="x = " + "[" * 5000)
    write_bundle(tmp_path / "other", contents)
    shown = pocketfed("verify", tmp_path / "other")
    assert (shown.code, "config.toml is no valid TOML: it is nested" in shown.err) == (2, True), shown.err
    (tmp_path / "deep.head").write_bytes(
        save({"weight": np.zeros(1, np.float32)}, metadata={"head": "[" * 5000})
    )
    shown = pocketfed("bundle", "--head", tmp_path / "deep.head", "--out", tmp_path / "b")
    assert (shown.code, "deep.head is no head, or a damaged one (it is nested" in shown.err) == (2, True), (
        shown.err
    )


@pytest.mark.parametrize("size", ["nan", "-1"])
def test_a_size_is_a_number(size: str, folder: Path, tmp_path: Path, pocketfed: Run) -> None:
    for words in (["inspect", folder / "made"], ["bundle", "--out", tmp_path / "b"]):
        shown = pocketfed(*words, "--max-mb", size)
        assert (shown.code, "--max-mb" in shown.err, size in shown.err) == (2, True, True)


def test_inspect_tells_a_package_from_a_program(folder: Path, tmp_path: Path, pocketfed: Run) -> None:
    contents = contents_of(read_bundle(folder / "made"))
    programs = contents.about["programs"]
    wrong = {**programs["EmbedPhoto.mlpackage"], "runtime": "executorch"}
    about = {**contents.about, "programs": {**programs, "EmbedPhoto.mlpackage": wrong}}
    write_bundle(tmp_path / "other", dataclasses.replace(contents, about=about))
    shown = pocketfed("inspect", tmp_path / "other")
    assert (shown.code, "does not describe EmbedPhoto.mlpackage" in shown.err) == (2, True), shown.err


def test_programs_with_other_weights_inside_disagree(folder: Path, tmp_path: Path, pocketfed: Run) -> None:
    contents = contents_of(read_bundle(folder / "made"))
    other, about = dataclasses.replace(contents, weights=np.roll(contents.weights, 1)), contents.about
    write_bundle(tmp_path / "other", other)
    shown = pocketfed("verify", tmp_path / "other")
    assert shown.code == 1
    assert shown.out.count("disagrees") == 6  # the four that have weights inside, two of them twice
    kinds = {**about["programs"], "train.pte": {"runtime": "abacus"}}
    write_bundle(tmp_path / "other", dataclasses.replace(other, about={**about, "programs": kinds}))
    shown = pocketfed("verify", tmp_path / "other")
    assert (shown.code, "is for 'abacus'" in shown.err) == (2, True)


@pytest.mark.parametrize("size", [1, 7])
def test_a_program_with_results_of_another_shape_is_named(
    size: int, folder: Path, tmp_path: Path, pocketfed: Run
) -> None:
    def first(captures: torch.Tensor) -> tuple[torch.Tensor]:
        return (captures.float().reshape(len(captures), -1)[:, :size] * 2,)

    method = Method("embed_photo", first, (torch.zeros(BATCH, 16, 16, 3, dtype=torch.uint8),))
    contents = contents_of(read_bundle(folder / "made"))
    files = {PROGRAM: contents.files[PROGRAM], "embed_photo.pte": export_program([method]).buffer}
    programs = {name: contents.about["programs"][name] for name in files}
    about = {**contents.about, "programs": programs}
    write_bundle(tmp_path / "other", dataclasses.replace(contents, files=files, about=about))
    shown = pocketfed("verify", tmp_path / "other")
    assert shown.code == 2
    assert f"embed_photo.pte does not run (it gives [{BATCH}, {size}] in place of [{BATCH}, 32])" in shown.err


@pytest.mark.parametrize(("word", "lie"), [("batch", 2), ("state", 7), ("mixed", True)])
def test_sizes_that_phones_go_by_are_those_of_the_program(
    word: str, lie: int, folder: Path, tmp_path: Path, pocketfed: Run
) -> None:
    contents = contents_of(read_bundle(folder / "made"))
    change: dict[str, Any] = {word: lie}
    spec = dataclasses.replace(contents.spec, **change)
    write_bundle(tmp_path / "other", dataclasses.replace(contents, spec=spec))
    shown = pocketfed("verify", tmp_path / "other")
    assert (shown.code, f"{lie!r} at spec.{word}, its configuration makes" in shown.err) == (2, True)


def test_a_manifest_without_programs_is_believed_no_more_than_another(
    folder: Path, tmp_path: Path, pocketfed: Run
) -> None:
    contents = contents_of(read_bundle(folder / "made"))
    files = {PROGRAM: contents.files[PROGRAM]}
    about = {"plugins": contents.about["plugins"], "captures": {"photo": "nonsense"}}
    write_bundle(tmp_path / "other", dataclasses.replace(contents, files=files, about=about))
    shown = pocketfed("verify", tmp_path / "other")
    assert (shown.code, "'nonsense' at captures.photo" in shown.err) == (2, True)


def test_a_head_of_another_encoder_is_refused(folder: Path, tmp_path: Path, pocketfed: Run) -> None:
    contents = contents_of(read_bundle(folder / "made"))
    weight, bias = np.zeros((2, 32), np.float32), np.zeros(2, np.float32)
    other = "resnet50, photos of 224 x 224 x 3"
    head = Head(Modality.PHOTO, ("cat", "dog"), weight, bias, "0" * 64, other, Trial((3, 3), (1, 1), (1, 0)))
    files = {PROGRAM: contents.files[PROGRAM], **head_files({Modality.PHOTO: head})}
    programs = {PROGRAM: contents.about["programs"][PROGRAM]}
    about = {**contents.about, **about_heads({Modality.PHOTO: head}), "programs": programs}
    write_bundle(tmp_path / "other", dataclasses.replace(contents, files=files, about=about))
    shown = pocketfed("verify", tmp_path / "other")
    assert (shown.code, "belongs to another encoder" in shown.err) == (2, True)


def test_a_step_that_was_exported_with_a_wrong_sign_disagrees(
    folder: Path, tmp_path: Path, pocketfed: Run
) -> None:
    step, *others = methods(task_of(config(folder), [Modality.PHOTO]))

    def wrong(theta: torch.Tensor, state: torch.Tensor, anchor: torch.Tensor, *rest: torch.Tensor) -> Any:
        return step.function(theta, state, 2 * theta - anchor, *rest)

    program = export_program([dataclasses.replace(step, function=wrong), *others]).buffer
    contents = contents_of(read_bundle(folder / "made"))
    about = {"plugins": contents.about["plugins"]}
    write_bundle(tmp_path / "b", dataclasses.replace(contents, files={PROGRAM: program}, about=about))
    shown = pocketfed("verify", tmp_path / "b")
    assert shown.code == 1
    assert re.search(r"step_photo, update .*disagrees.*\n.* most the (change|state 0) of", shown.out)
    assert re.search(r"step_photo, gradient .*ok", shown.out)


def test_a_program_that_does_not_run_is_named(
    made: Path, pocketfed: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(OPERATORS, "conv")
    shown = pocketfed("verify", made)
    assert shown.code == 2
    assert "EmbedPhoto.mlpackage does not run (the operator 'conv'" in shown.err
    (made / "train.pte").write_bytes(b"")
    assert "train.pte is not the file that the manifest describes" in pocketfed("verify", made).err


def test_an_older_runtime_is_said_before_anything_runs(
    folder: Path, pocketfed: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verification, "runtime_version", lambda: "0.9.10")
    shown = pocketfed("verify", folder / "made")
    assert (shown.code, "the runtime here is older, 0.9.10; install executorch" in shown.err) == (2, True)
    only = ["--signature-only", "--key", folder / "release.pub"]
    assert pocketfed("verify", folder / "made", *only).code == 0


def test_the_command_makes_it_signs_it_and_zips_it(folder: Path, tmp_path: Path, pocketfed: Run) -> None:
    out = tmp_path / "new[bold]" / "b[" / "x]"
    arguments = ["bundle", folder / "made" / "config.toml", "--out", out, "--no-int8", "--no-coreml", "--zip"]
    shown = pocketfed(*arguments, "--key", folder / "release", "--version", 4)
    assert shown.code == 0, shown.err
    bundle = read_bundle(out, read_signing_key(folder / "release").public)
    assert list(bundle.manifest["programs"]) == ["train.pte", "embed_photo.pte"]
    assert f"{out}: bundle {bundle.id[:12]}, version 4, " in shown.out
    with zipfile.ZipFile(out.with_name("x].zip")) as archive:
        archive.extractall(tmp_path / "unpacked")
    assert read_bundle(tmp_path / "unpacked" / "x]").id == bundle.id
    again = pocketfed(*arguments)
    assert (again.code, "exists; add --force to replace it" in again.err) == (2, True)
    unsigned = pocketfed(*arguments, "--force")
    assert unsigned.code == 0
    assert "It is not signed" in unsigned.out
    assert np.array_equal(read_bundle(out).weights, bundle.weights)
    assert not [path for path in out.parent.iterdir() if path.name.startswith(".")]


FLAT = """
from torch import nn
from pocketfed.core.backbones import register

def build():
    layers = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 8))
    nn.init.constant_(layers[-1].bias, 1000.0)
    return layers

register("flat", build, 8)
"""


def test_int8_that_is_of_no_use_is_said_when_the_bundle_is_made(
    folder: Path, tmp_path: Path, pocketfed: Run
) -> None:
    """Features around 1,000 that differ by less than 1 are all the same in 8 bits."""
    (tmp_path / "flat.py").write_text(FLAT)
    (tmp_path / "flat.toml").write_text(
        f"""
        plugins = ["{tmp_path / "flat.py"}"]
        captures = {{ photos = "{folder / "captures" / "photos"}", side = 16 }}
        learning = {{ batch = 4, backbone = "flat" }}
        """
    )
    made = pocketfed("bundle", tmp_path / "flat.toml", "--out", tmp_path / "flat", "--no-coreml")
    assert made.code == 0
    assert re.search(r"embed_photo_int8\.pte is of no use with these weights: (\d+)% of", made.out)
    assert all(way in made.out for way in ("--from RUN", "--no-int8"))
    shown = pocketfed("verify", tmp_path / "flat", "--plugin", tmp_path / "flat.py")
    assert (shown.code, shown.out.count("disagrees")) == (1, 1)


def test_int8_that_is_of_use_is_not_mentioned(folder: Path) -> None:
    bundle = read_bundle(folder / "made")
    assert list(useless_int8(bundle, task_of(config(folder), [Modality.PHOTO]))) == []


def test_mistakes_cost_nothing_that_is_there(folder: Path, tmp_path: Path, pocketfed: Run) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("years of work")
    shown = pocketfed("bundle", "--out", tmp_path / "thesis", "--force")
    assert (shown.code, "thesis exists and is no whole bundle" in shown.err) == (2, True)
    assert (tmp_path / "thesis" / "chapter.tex").exists()
    shown = pocketfed("bundle", folder / "made" / "config.toml", "--from", folder, "--out", tmp_path / "b")
    assert (shown.code, "give CONFIG or --from, not both" in shown.err) == (2, True)
    shown = pocketfed("bundle", "--backbone", "nobody", "--out", tmp_path / "b")
    assert (shown.code, "no such backbone" in shown.err) == (2, True)
    assert not (tmp_path / "b").exists()


def test_a_bundle_over_its_budget_is_not_made(folder: Path, tmp_path: Path, pocketfed: Run) -> None:
    arguments = [
        "bundle",
        folder / "made" / "config.toml",
        "--no-int8",
        "--no-coreml",
        "--out",
        tmp_path / "b",
    ]
    shown = pocketfed(*arguments, "--max-mb", "0.05")
    assert shown.code == 2
    assert "more than 0.05: train.pte " in shown.err
    assert "leave programs out (--no-int8" in shown.err
    assert list(tmp_path.iterdir()) == []
    shown = pocketfed(*arguments, "--coreml-weights", "int3")
    assert (shown.code, "choose one of: float16, int8, palette6" in shown.err) == (2, True)


def test_slow_kernels_are_accepted_in_all_programs_or_in_none(
    folder: Path, tmp_path: Path, pocketfed: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []

    def train(task: LearningTask, mixed: bool, allow_portable: bool) -> bytes:
        asked.append(allow_portable)
        return b""

    def infer(*arguments: object, allow_portable: bool, **others: object) -> Program:
        asked.append(allow_portable)
        raise ExportError("that is enough")

    monkeypatch.setattr(bundling, "task_program", train)
    monkeypatch.setattr(bundling, "export_inference", infer)
    arguments = ["bundle", folder / "made" / "config.toml", "--no-int8", "--out", tmp_path / "b"]
    for accepted in (["--allow-portable"], []):
        assert "that is enough" in pocketfed(*arguments, *accepted).err
    assert asked == [True, True, False, False]


CUMULATIVE = """
from torch import cumsum, nn
from pocketfed.core.backbones import register

class Counting(nn.Module):
    def forward(self, x):
        return cumsum(x, 1)

def build():
    return nn.Sequential(nn.Conv2d(3, 8, 3, 4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), Counting())

register("counting", build, 8)
"""


@pytest.mark.long
def test_a_network_that_no_phone_runs_is_named_with_operator_and_module(
    folder: Path, tmp_path: Path, pocketfed: Run
) -> None:
    (tmp_path / "counting.py").write_text(CUMULATIVE)
    (tmp_path / "c.toml").write_text(
        f'plugins = ["counting.py"]\n[captures]\nphotos = "{folder}/captures/photos"\nside = 16\n'
        '[learning]\nbackbone = "counting"\nbatch = 4\n'
    )
    shown = pocketfed("bundle", tmp_path / "c.toml", "--out", tmp_path / "b")
    assert shown.code == 2
    assert "aten.cumsum.default" in shown.err
    assert "in module backbone.3" in shown.err
    assert "multiply by a constant triangular matrix of ones" in shown.err
    assert "give --allow-portable" in shown.err
    assert not (tmp_path / "b").exists()
    lean = ["--no-int8", "--no-coreml", "--allow-portable"]
    shown = pocketfed("bundle", tmp_path / "c.toml", "--out", tmp_path / "b", *lean)
    assert shown.code == 0, shown.err
    for program, method in (("train.pte", "step_photo"), ("embed_photo.pte", "embed_photo")):
        assert f"slow kernel: {program}: {method}: aten::cumsum, " in shown.out


def test_keys(tmp_path: Path, pocketfed: Run) -> None:
    shown = pocketfed("keys", tmp_path / "release")
    assert shown.code == 0
    assert "Fingerprint: " in shown.out
    again = pocketfed("keys", tmp_path / "release")
    assert (again.code, "exists; a key that has been used is not replaced" in again.err) == (2, True)

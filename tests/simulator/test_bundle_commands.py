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

from pocketfed.core.bundle import PROGRAM, Bundle, Contents, read_bundle, write_bundle
from pocketfed.core.errors import ExportError
from pocketfed.core.learning_step import methods
from pocketfed.core.learning_task import LearningTask
from pocketfed.core.modality import Modality
from pocketfed.core.signing import make_signing_key, read_signing_key
from pocketfed.export.executorch import Program
from pocketfed.export.mil.operators import OPERATORS
from pocketfed.export.program import export_program
from pocketfed.simulator import bundling, verification
from pocketfed.simulator.bundling import Options, build_bundle
from pocketfed.simulator.config import Config, build_config
from pocketfed.simulator.parity import CAPTURES_EACH, Parity, distance, in_batches, lost_of
from pocketfed.simulator.program import task_of
from tests.conftest import Shown
from tests.simulator.capture_folders import make_captures

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
    learning = {"batch": 4, "backbone": "small"}
    return build_config({"captures": captures, "learning": learning, "plugins": [str(folder / "small.py")]})


SMALL = """
from torch import nn
from pocketfed.core.backbones import register

def build():
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, 2, 1), nn.GroupNorm(4, 16), nn.SiLU(), nn.Conv2d(16, 32, 3, 2, 1),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(),
    )

register("small", build, 32)
"""


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
    noise = bundle.manifest["noise"]["photo"]
    assert noise["distribution"] == "uniform in [0, 1)"
    assert noise["names"][:2] == ["area", "aspect"]
    assert step["inputs"][4]["shape"] == [4, 2, len(noise["names"])]
    assert bundle.manifest["hyper"][0] == {"name": "learning_rate", "default": 0.03, "range": "above 0"}
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
    ):
        assert expected in shown.out
    found = json.loads(pocketfed("inspect", folder / "made", "--json").out)
    assert {row["file"]: row["slow"] for row in found["programs"]}["train.pte"] == []
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
    about = {
        name: bundle.manifest[name] for name in ("programs", "backbone", "features", "optimiser", "plugins")
    }
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
    assert "other programs than its files" in shown.err
    assert "embed_photo.pte" in shown.err


@pytest.mark.parametrize(
    "hidden", ["sub/x.pte", "sub/X.mlpackage/Manifest.json", "EmbedPhoto.mlpackage/x.pte"]
)
def test_programs_below_other_folders_are_not_passed_over(
    hidden: str, folder: Path, tmp_path: Path, pocketfed: Run
) -> None:
    contents = contents_of(read_bundle(folder / "made"))
    files = {**contents.files, hidden: b"anything"}
    write_bundle(tmp_path / "other", dataclasses.replace(contents, files=files))
    shown = pocketfed("verify", tmp_path / "other")
    assert (shown.code, f"({hidden.removesuffix('/Manifest.json')})" in shown.err) == (2, True)


WRONG_ENTRIES = {
    "no methods": ("embed_photo.pte", {"methods": {}}, "has the methods embed_photo, but the manifest names none"),
    "other methods": ("embed_photo.pte", {"methods": {"x": {}}}, "embed_photo, but the manifest names x"),
    "no methods of the step": ("train.pte", {"methods": {}}, "step_photo, but the manifest names none"),
    "a list of methods": ("embed_photo.pte", {"methods": ["embed_photo"]}, "embed_photo.pte does not run"),
    "no batches": ("EmbedPhoto.mlpackage", {"batches": []}, "nothing of"),
    "empty batches": ("EmbedPhoto.mlpackage", {"batches": [0]}, "EmbedPhoto.mlpackage does not run"),
    "another precision": ("embed_photo.pte", {"precision": "float13"}, "the precision 'float13', which is not known"),
    "other weights": ("EmbedPhoto.mlpackage", {"weights": "int1"}, "the precision 'exact, int1'"),
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
    assert re.search(r"step_photo, state .*disagrees", shown.out)
    assert re.search(r"step_photo, loss .*ok", shown.out)


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
    out = tmp_path / "new" / "bundle"
    arguments = ["bundle", folder / "made" / "config.toml", "--out", out, "--no-int8", "--no-coreml", "--zip"]
    shown = pocketfed(*arguments, "--key", folder / "release", "--version", 4)
    assert shown.code == 0, shown.err
    bundle = read_bundle(out, read_signing_key(folder / "release").public)
    assert list(bundle.manifest["programs"]) == ["train.pte", "embed_photo.pte"]
    with zipfile.ZipFile(out.with_name("bundle.zip")) as archive:
        archive.extractall(tmp_path / "unpacked")
    assert read_bundle(tmp_path / "unpacked" / "bundle").id == bundle.id
    again = pocketfed(*arguments)
    assert (again.code, "exists; add --force to replace it" in again.err) == (2, True)
    unsigned = pocketfed(*arguments, "--force")
    assert unsigned.code == 0
    assert "It is not signed" in unsigned.out
    assert np.array_equal(read_bundle(out).weights, bundle.weights)
    assert not [path for path in out.parent.iterdir() if path.name.startswith(".")]


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

"""A backbone of one's own, a file outside the package, as typed: simulate, probe, bundle, inspect, verify, and the next.

Everything runs on one small network, so that classifiers and weights that are carried over cost no export of their own.
"""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pocketfed.core.bundle import Contents, read_bundle, write_bundle
from pocketfed.core.errors import MigrationError
from pocketfed.core.head import read_head
from pocketfed.core.layout import Layout
from pocketfed.core.plugins import load_plugins
from pocketfed.mobile_client.runtime import ExecutorchRuntime
from pocketfed.server.checkpoint import load_checkpoint, path_of
from pocketfed.simulator.bundles import config_of
from pocketfed.simulator.weights import carried_over
from tests.conftest import Shown

pytestmark = pytest.mark.long

Run = Callable[..., Shown]

TOY = """
from torch import nn
from pocketfed.core.backbones import register

register(
    "toy",
    lambda: nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.SiLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
    features=8,
)
"""

CONFIG = """
rounds = 1
workers = 1
plugins = ["toy.py"]
[captures]
photos = "photos"
side = 16
[fleet]
phones = 2
alpha = 1.0
[learning]
backbone = "toy"
batch = 4
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The plug-in, photos of two classes, the darker of which has more, and a configuration."""
    place = tmp_path_factory.mktemp("own")
    (place / "toy.py").write_text(TOY)
    (place / "small.toml").write_text(CONFIG)
    rng = np.random.default_rng(0)
    for name, count, level in (("bright", 15, 150), ("dark", 25, 0)):
        (place / "photos" / name).mkdir(parents=True)
        for i in range(count):
            pixels = level + rng.integers(0, 100, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(place / "photos" / name / f"{i}.png")
    return place


@pytest.fixture
def made(place: Path, pocketfed: Run) -> Path:
    """The run and the bundle, made by whichever test comes first; the plug-in is loaded for each test."""
    load_plugins([place / "toy.py"])
    if not (place / "bundle").exists():
        _simulate_and_bundle(place, pocketfed)
    return place


def _simulate_and_bundle(place: Path, pocketfed: Run) -> None:
    run, head = place / "run", place / "photos.head"
    simulated = pocketfed("simulate", "--config", place / "small.toml", "--out", run)
    assert simulated.code == 0, simulated.err
    probed = pocketfed("probe", run, "--photos", place / "photos", "-o", head)
    assert probed.code == 0, probed.err
    assert "of 8 held-out clips are named rightly; always naming the commonest class: 62.5%" in probed.out
    bundled = pocketfed("bundle", "--from", run, "--head", head, "--no-int8", "-o", place / "bundle")
    assert bundled.code == 0, bundled.err


def test_it_goes_through_simulation_export_and_bundle(made: Path, pocketfed: Run) -> None:
    begun, learnt = (load_checkpoint(path_of(made / "run" / "checkpoints", n)).weights for n in (0, 1))
    assert not np.array_equal(begun, learnt)
    bundle = read_bundle(made / "bundle")
    assert np.array_equal(bundle.weights, learnt)
    assert list(bundle.manifest["programs"]) == [
        "train.pte", "embed_photo.pte", "EmbedPhoto.mlpackage", "embed_photo_coreml.pte", "TrainPhoto.mlpackage",
        "classify_photo.pte", "ClassifyPhoto.mlpackage",
    ]  # fmt: skip
    verified = pocketfed("verify", made / "bundle")
    assert verified.code == 0, verified.out + verified.err
    # The step's loss, weights, state and features; embed and classify; Core ML's three twice each; loss and gradient.
    assert verified.out.count("ok") == 14
    assert [plugin["name"] for plugin in bundle.manifest["plugins"]] == ["toy.py"]
    assert "made with the plug-in toy.py, SHA-256" in pocketfed("inspect", made / "bundle").out


def test_a_classifier_names_captures_by_the_labels_of_the_manifest(made: Path, pocketfed: Run) -> None:
    bundle = read_bundle(made / "bundle")
    about = bundle.manifest["classifiers"]["photo"]
    assert about["labels"] == ["bright", "dark"]
    assert (about["trained_on"], about["held_out"], about["chance"]) == (32, 8, 0.625)
    method = bundle.manifest["programs"]["classify_photo.pte"]["methods"]["classify_photo"]
    (taken,), (given,) = method["inputs"], method["outputs"]
    assert (taken["name"], taken["shape"], taken["dtype"]) == ("photo captures", [1, 16, 16, 3], "uint8")
    assert (given["name"], given["shape"], given["dtype"]) == ("scores", [1, 2], "float32")
    assert given["unit"] == "logits in the order of the labels"
    runtime = ExecutorchRuntime((made / "bundle" / "classify_photo.pte").read_bytes())
    for value, label in ((200, "bright"), (50, "dark")):
        (scores,) = runtime.run("classify_photo", [np.full((1, 16, 16, 3), value, dtype=np.uint8)])
        assert about["labels"][int(scores.argmax())] == label
    assert read_head(made / "bundle" / about["head"]).classes == ("bright", "dark")
    shown = pocketfed("inspect", made / "bundle").out
    assert "classes of photos: bright, dark" in shown
    assert "of 8 held-out clips named rightly, 62.5% by always naming the commonest class" in shown
    assert (
        json.loads(pocketfed("inspect", made / "bundle", "--json").out)["manifest"]["classifiers"]["photo"]
        == about
    )


def test_a_head_of_another_encoder_is_refused_before_anything_is_made(made: Path, pocketfed: Run) -> None:
    head = made / "photos.head"
    shown = pocketfed("bundle", made / "small.toml", "--head", head, "-o", made / "other")
    assert shown.code == 2
    assert (
        "the head of photos belongs to another encoder (toy, photos of 16 x 16 x 3, but with other weights)"
        in shown.err
    )
    shown = pocketfed("bundle", "--head", head, "-o", made / "other")
    assert (shown.code, "(toy, photos of 16 x 16 x 3, not compact, photos of 32 x 32 x 3)" in shown.err) == (
        2,
        True,
    )
    (made / "sounds.toml").write_text('[captures]\nsounds = "sounds"\n')
    shown = pocketfed("bundle", made / "sounds.toml", "--head", head, "-o", made / "other")
    assert (shown.code, "has nothing to sit on: the bundle is of sounds alone" in shown.err) == (2, True)
    shown = pocketfed(
        "bundle", "--head", head, "--head", head, "--head", made / "absent", "-o", made / "other"
    )
    assert shown.code == 2
    assert "is the second head of photos" in shown.err
    assert "absent cannot be read" in shown.err
    assert not (made / "other").exists()


def test_probe_refuses_what_it_cannot_learn_from(made: Path, tmp_path: Path, pocketfed: Run) -> None:
    (tmp_path / "out").write_text("")
    shown = pocketfed("probe", made / "run", "--modality", "smell", "--photos", made, "-o", tmp_path / "out")
    assert shown.code == 2
    for problem in (
        "one of --photos, --sounds and --modality",
        "'smell' is neither",
        "add --force to replace it",
    ):
        assert problem in shown.err
    assert pocketfed("probe", made / "run", "-o", tmp_path / "a").code == 2
    bright = made / "photos" / "bright"
    shutil.copytree(bright, tmp_path / "one" / "only")
    for captures, problem in (
        (bright, "15 of 15 photos have no class"),
        (tmp_path / "one", "of the class 'only'"),
    ):
        shown = pocketfed("probe", made / "bundle", "--photos", captures, "-o", tmp_path / "a")
        assert (shown.code, problem in shown.err) == (2, True), shown.err
    shown = pocketfed("probe", made / "run", "--sounds", made, "-o", tmp_path / "a")
    assert (shown.code, "has learnt from photos alone, not from sounds" in shown.err) == (2, True)
    assert not (tmp_path / "a").exists()


def test_probe_takes_the_captures_of_the_run_and_any_model(
    made: Path, tmp_path: Path, pocketfed: Run
) -> None:
    shown = pocketfed("probe", made / "run", "--modality", "photo", "-o", tmp_path / "run.head")
    assert shown.code == 0, shown.err
    same = read_head(tmp_path / "run.head")
    assert np.array_equal(same.weight, read_head(made / "photos.head").weight)
    photos = ["--photos", made / "photos", "-o", tmp_path / "a.head", "--force", "--seed", 0]
    for model, own in (
        ("bundle", True),
        ("run/checkpoints/round-00001.safetensors", True),
        ("small.toml", False),
        ("run/checkpoints/round-00000.safetensors", False),
    ):
        assert pocketfed("probe", made / model, *photos).code == 0
        assert (read_head(tmp_path / "a.head").encoder == same.encoder) == own, model


def test_weights_of_another_projector_or_backbone(made: Path, tmp_path: Path, pocketfed: Run) -> None:
    """As another version of the package would have laid them out."""
    bundle = read_bundle(made / "bundle")
    text = bundle.read_layout().to_json()
    former = _relaid(made, tmp_path / "former", text.replace("projector.second", "projector.last"))
    config, layout = config_of(bundle), bundle.read_layout()
    weights, notes = carried_over(made / "bundle", config)
    assert np.array_equal(weights, bundle.weights)
    assert notes == [
        f"Weights of {made / 'bundle'}: {len(layout.slices)} slices carried over ({layout.size:,} numbers)"
    ]
    weights, notes = carried_over(former, config)
    for part, own, old in zip(
        layout.slices, layout.parts(weights), layout.parts(bundle.weights), strict=True
    ):
        assert np.array_equal(own, old) == (not part.name.startswith("projector.second")), part.name
    assert "Begins anew: projector.second.weight was absent, is [128, 160]" in notes
    assert "Left behind: projector.last.bias" in notes
    other = _relaid(made, tmp_path / "other", text.replace("[8,3,4,4]", "[8,6,4,2]"))
    with pytest.raises(MigrationError, match=r"backbone\.0\.weight was \[8, 6, 4, 2\], is \[8, 3, 4, 4\]"):
        carried_over(other, config)
    shown = pocketfed("bundle", "--weights-from", made / "bundle", "-o", tmp_path / "b")
    assert (shown.code, "weights of 'toy', which cannot begin 'compact'" in shown.err) == (2, True)
    shown = pocketfed("bundle", "--weights-from", made / "small.toml", "-o", tmp_path / "b")
    assert (shown.code, "has no trained weights" in shown.err) == (2, True)
    shown = pocketfed(
        "bundle", "--from", made / "run", "--weights-from", made, "--backbone", "vit", "-o", tmp_path / "b"
    )
    assert shown.code == 2
    assert "--from or --weights-from, not both" in shown.err
    assert "--backbone cannot change it" in shown.err


def _relaid(made: Path, folder: Path, text: str) -> Path:
    """The bundle with another layout of as many numbers."""
    bundle, layout = read_bundle(made / "bundle"), Layout.from_json(text)
    files = {"train.pte": bundle.program}
    config = (made / "bundle" / "config.toml").read_text()
    about = {name: bundle.manifest[name] for name in ("plugins", "backbone")}
    spec = replace(bundle.spec, layout=layout.digest)
    write_bundle(folder, Contents(spec, layout, bundle.weights, config, files, about))
    return folder

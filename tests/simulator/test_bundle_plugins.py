"""A bundle is from anywhere: it says by hash which Python files it was made with, and none is imported on its word."""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pocketfed.core.backbones import BACKBONES
from pocketfed.core.bundle import Bundle, Contents, read_bundle, write_bundle
from pocketfed.core.plugins import LOADED, load_plugins, plugin_records
from pocketfed.core.release import CONFIG
from pocketfed.server.checkpoint import Checkpoint, load_checkpoint, path_of, save_checkpoint
from pocketfed.simulator import bundling, run_folder
from pocketfed.simulator.bundles import config_of, make_bundle
from pocketfed.simulator.config import Config
from pocketfed.simulator.config_file import build_config
from pocketfed.simulator.run_folder import RunFolder
from tests.bundles import LAYOUT, SPEC
from tests.conftest import Shown

Run = Callable[..., Shown]

TOY = """
from torch import nn
from pocketfed.core.backbones import register

register(
    "plugged",
    lambda: nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
    features=8,
)
"""


@pytest.fixture(autouse=True)
def forget(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Forgets what the process has imported, as another machine would never have."""
    monkeypatch.setattr("pocketfed.export.program.task_program", lambda *arguments: b"program")

    def forget() -> None:
        LOADED.clear()
        BACKBONES.pop("plugged", None)
        for name in [name for name in sys.modules if name.startswith("pocketfed_plugin_toy")]:
            del sys.modules[name]

    return forget


def made_in(folder: Path) -> Bundle:
    folder.mkdir()
    (folder / "toy.py").write_text(TOY)
    config = build_config(
        {
            "captures": {"photos": str(folder / "photos"), "side": 16},
            "learning": {"batch": 4, "backbone": "plugged"},
            "plugins": [str(folder / "toy.py")],
        }
    )
    return make_bundle(config, None, folder / "bundle", lambda what: None)


def test_where_a_plug_in_lies_makes_no_other_bundle(tmp_path: Path) -> None:
    made = [made_in(tmp_path / name) for name in ("anne", "bert")]
    assert made[0].id == made[1].id
    assert str(tmp_path) not in (made[0].folder / CONFIG).read_text()


def test_a_plug_in_is_taken_from_the_user_alone(
    tmp_path: Path, forget: Callable[[], None], pocketfed: Run
) -> None:
    """Even where it still lies as it was."""
    made = made_in(tmp_path / "here")
    given = tmp_path / "toy.py"
    given.write_text(TOY + "\n")
    for command in (["probe", made.folder, "--photos", tmp_path], ["verify", made.folder]):
        for other in ([], ["--plugin", given]):
            forget()
            shown = pocketfed(*command, *other)
            assert shown.code == 2
            assert f"was made with toy.py (SHA-256 {made.manifest['plugins'][0]['sha256'][:12]})" in shown.err
            assert "give that very file with --plugin" in shown.err
    forget()
    given.write_text(TOY)
    load_plugins([given])
    assert config_of(made).plugins == (given,)


@pytest.fixture
def run(tmp_path: Path, forget: Callable[[], None]) -> Path:
    """A run whose plug-in has moved from `here` to `there` since."""
    made = made_in(tmp_path / "here")
    config = config_of(made)
    folder = RunFolder(tmp_path / "run")
    run_folder.begin(folder, config)
    layout, weights = made.read_layout(), made.weights + np.float32(1)
    save_checkpoint(folder.checkpoints, Checkpoint(2, 0, weights, layout, {"round": 2}))
    (tmp_path / "there").mkdir()
    (tmp_path / "here" / "toy.py").rename(tmp_path / "there" / "toy.py")
    forget()
    return folder.path


@pytest.fixture
def bundled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bundles of the learning step alone."""

    def build(
        config: Config, weights: NDArray[np.float32] | None, folder: Path, options: object, key: object,
        tell: Callable[[str], None],
    ) -> Bundle:  # fmt: skip
        return make_bundle(config, weights, folder, tell)

    monkeypatch.setattr(bundling, "build_bundle", build)


@pytest.mark.usefixtures("bundled")
def test_a_plug_in_that_has_moved_is_given_in_place_of_the_runs(
    run: Path, tmp_path: Path, pocketfed: Run
) -> None:
    there = tmp_path / "there" / "toy.py"
    shown = pocketfed("bundle", "--from", run, "--no-int8", "-o", tmp_path / "b")
    assert shown.code == 2
    said = f"Error: {run / 'config.toml'} cannot be used: plugin {tmp_path / 'here' / 'toy.py'} is no Python file"
    assert shown.err.startswith(said)
    assert shown.err.endswith("; mend plugins there, or give pocketfed bundle the file with --plugin\n")
    for number, path in enumerate((run, path_of(run / "checkpoints", 2))):
        out = tmp_path / f"b{number}"
        shown = pocketfed("bundle", "--from", path, "--no-int8", "-o", out, "--plugin", there)
        assert shown.code == 0, shown.err
        assert f"pocketfed verify {out} --plugin {there}" in shown.out
        bundle = read_bundle(out)
        assert bundle.manifest["plugins"] == plugin_records([there])
        assert np.array_equal(bundle.weights, load_checkpoint(path_of(run / "checkpoints", 2)).weights)


@pytest.mark.usefixtures("bundled")
def test_a_plug_in_that_is_not_the_runs_is_none_for_it(run: Path, tmp_path: Path, pocketfed: Run) -> None:
    (tmp_path / "toy_of_others.py").write_text("x = 1\n")
    for given, problem in (
        ("toy_of_others.py", "learning.backbone: no such backbone"),
        ("absent.py", f"plugin {tmp_path / 'absent.py'} is no Python file"),
    ):
        shown = pocketfed("bundle", "--from", run, "--plugin", tmp_path / given, "-o", tmp_path / "b")
        said = "config.toml cannot be used with the plug-ins that were given in place of its own: "
        assert (shown.code, said + problem in shown.err) == (2, True), shown.err
    (run / "config.toml").write_text("format = 1\nrounds = 0\n")
    shown = pocketfed("bundle", "--from", run, "-o", tmp_path / "b")
    assert (shown.code, "config.toml is damaged: rounds: " in shown.err) == (2, True), shown.err


@pytest.mark.usefixtures("bundled")
def test_a_plug_in_that_was_given_alone_is_in_the_manifest(run: Path, tmp_path: Path, pocketfed: Run) -> None:
    """As where a run's configuration names none, since whoever ran it had another way to register the backbone."""
    there = tmp_path / "there" / "toy.py"
    text = (run / "config.toml").read_text()
    named = next(line for line in text.splitlines() if "toy.py" in line)
    (run / "config.toml").write_text("\n".join(line for line in text.splitlines() if line != named))
    assert "toy.py" not in (run / "config.toml").read_text()
    shown = pocketfed("bundle", "--from", run, "--no-int8", "-o", tmp_path / "b", "--plugin", there)
    assert shown.code == 0, shown.err
    assert read_bundle(tmp_path / "b").manifest["plugins"] == plugin_records([there])


@pytest.mark.parametrize("place", ["beside", "inside"])
def test_no_python_file_is_run_on_a_bundles_word(place: str, tmp_path: Path, pocketfed: Run) -> None:
    ran, bundle = tmp_path / "it ran", tmp_path / "bundle"
    evil = tmp_path / "evil.py"
    evil.write_text(f"open({str(ran)!r}, 'w')\n")
    files, path = {"train.pte": b""}, "../evil.py"
    if place == "inside":
        files, path = {**files, "evil.py": evil.read_bytes()}, "evil.py"
    described: list[Mapping[str, Any]] = [
        {"plugins": plugin_records([evil])}, {}, {"plugins": [1]}, {"plugins": [{"name": "evil.py"}]}, {"plugins": 1},
    ]  # fmt: skip
    for about in described:
        weights = np.zeros(SPEC.weights, np.float32)
        write_bundle(bundle, Contents(SPEC, LAYOUT, weights, f'plugins = ["{path}"]\n', files, about))
        for command in (
            ["verify"],
            ["probe", "--photos", tmp_path],
            ["bundle", "-o", tmp_path / "b", "--weights-from"],
        ):
            shown = pocketfed(*command, bundle)
            assert shown.code == 2, shown.out
            assert not ran.exists()
    assert "is damaged: plugins" in shown.err

"""A bundle is from anywhere: it says by hash which Python files it was made with, and none is imported on its word."""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pocketfed.core.backbones import BACKBONES
from pocketfed.core.bundle import Bundle, Contents, write_bundle
from pocketfed.core.plugins import LOADED, load_plugins, plugin_records
from pocketfed.core.release import CONFIG
from pocketfed.simulator.bundles import config_of, make_bundle
from pocketfed.simulator.config_file import build_config
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

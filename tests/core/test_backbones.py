"""The registry: names from the package, from timm, and from a file outside."""

import sys
from pathlib import Path

import pytest
import torch

from pocketfed.core.backbones import BACKBONES, build_backbone
from pocketfed.core.errors import ConfigError
from pocketfed.core.plugins import load_plugins

PLUGIN = """
from torch import nn
from pocketfed.core.backbones import register
register("from-outside", lambda: nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 5)), features=5)
"""


@pytest.mark.parametrize("name", ["compact", "timm:mobilenetv3_small_050"])
def test_features_are_as_wide_as_promised(name: str) -> None:
    backbone, features = build_backbone(name)
    assert backbone.training
    assert backbone(torch.rand(2, 3, 32, 32)).shape == (2, features)


def test_unknown_names_say_what_there_is() -> None:
    with pytest.raises(
        ConfigError, match=r"'compacd': no such backbone; choose one of: compact.*or timm:NAME"
    ):
        build_backbone("compacd")
    with pytest.raises(ConfigError, match=r"near it are: .*mobilenetv3_small_050"):
        build_backbone("timm:mobilenetv3_smal_050")


def test_a_plugin_registers_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "mine.py"
    path.write_text(PLUGIN)
    before = set(sys.modules)
    try:
        load_plugins([path, path])
        backbone, features = build_backbone("from-outside")
        assert backbone(torch.rand(2, 3, 8, 8)).shape == (2, features)
        assert (
            len([name for name in set(sys.modules) - before if name.startswith("pocketfed_plugin_mine")]) == 1
        )
    finally:
        BACKBONES.pop("from-outside", None)


def test_all_bad_plugins_are_named_at_once(tmp_path: Path) -> None:
    broken = tmp_path / "broken.py"
    broken.write_text("import no_such_module_anywhere")
    with pytest.raises(ConfigError) as caught:
        load_plugins([tmp_path / "absent.py", broken])
    assert [
        str(tmp_path / "absent.py") in caught.value.problems[0],
        "no_such_module" in caught.value.problems[1],
    ] == [
        True,
        True,
    ]

"""The registry: names from the package, from timm, and from a file outside."""

import re
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

from pocketfed.core.backbones import BACKBONES, PHONES, build_backbone
from pocketfed.core.errors import ConfigError
from pocketfed.core.plugins import load_plugins
from tests.conftest import REPOSITORY

PLUGIN = """
from torch import nn
from pocketfed.core.backbones import register
register("from-outside", lambda: nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 5)), features=5)
"""


@pytest.mark.parametrize("name", [*BACKBONES, "timm:mobilenetv3_small_050"])
def test_features_are_as_wide_as_promised(name: str) -> None:
    with torch.device("meta") if name in BACKBONES else nullcontext():
        backbone, features = build_backbone(name)
        assert backbone.training
        assert backbone(torch.zeros(2, 3, 64, 96)).shape == (2, features)


@pytest.mark.parametrize("name", PHONES)
def test_a_bare_name_is_a_network_for_phones(name: str) -> None:
    """0.2 to 2 M parameters; one network takes photos and sounds, and every weight learns from either."""
    torch.manual_seed(0)
    backbone, features = build_backbone(name)
    trained = list(backbone.parameters())
    assert 0.2e6 < sum(part.numel() for part in trained) < 2e6
    for _ in range(2):  # a weight behind one that begins with zero has a gradient from the second step on
        for shape in ((4, 3, 32, 32), (4, 3, 32, 48)):
            out = backbone(torch.randn(shape))
            assert out.shape == (4, features)
            gradients = torch.autograd.grad((out * torch.randn_like(out)).sum(), trained)
            with torch.no_grad():
                for part, gradient in zip(trained, gradients, strict=True):
                    part.sub_(1e-3 * gradient)
    assert all(bool(gradient.any()) for gradient in gradients)


def test_unknown_names_say_what_there_is() -> None:
    with pytest.raises(
        ConfigError, match=r"'compacd': no such backbone; choose one of: compact, .*resnet18, .*timm:NAME"
    ):
        build_backbone("compacd")
    with pytest.raises(ConfigError, match=r"near it are: .*mobilenetv3_small_050"):
        build_backbone("timm:mobilenetv3_smal_050")


def test_a_plugin_registers_once(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(PLUGIN)
    before = set(sys.modules)
    load_plugins([path, path])
    backbone, features = build_backbone("from-outside")
    assert backbone(torch.rand(2, 3, 8, 8)).shape == (2, features)
    assert len([name for name in set(sys.modules) - before if name.startswith("pocketfed_plugin_mine")]) == 1


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


def test_the_table_in_the_docs_is_true() -> None:
    """Every backbone with its counts; forms of FedRepOpt have a table of their own."""
    page = (REPOSITORY / "docs" / "backbones.md").read_text()
    rows = re.findall(r"^\| `([\w-]+)` \| ([\d,]+) \| (\d+) \|", page, flags=re.MULTILINE)
    forms = {name for name in BACKBONES if name.endswith(("-target", "-csla", "-rep", "-hs", "-initial"))}
    assert {name for name, _, _ in rows} == set(BACKBONES) - forms
    with torch.device("meta"):
        for name, count, width in rows:
            backbone, features = build_backbone(name)
            assert (f"{sum(part.numel() for part in backbone.parameters()):,}", str(features)) == (
                count,
                width,
            )


def test_the_code_in_the_docs_runs(tmp_path: Path) -> None:
    page = (REPOSITORY / "docs" / "backbones.md").read_text()
    for i, block in enumerate(re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)):
        path = tmp_path / f"block{i}.py"
        path.write_text(block)
        load_plugins([path])
    assert build_backbone("van-lka-7")[1] == 128

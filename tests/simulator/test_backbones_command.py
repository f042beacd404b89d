"""`pocketfed backbones`."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from torch import nn

from pocketfed.core.backbones import BACKBONES, PHONES
from pocketfed.simulator import catalogue
from pocketfed.simulator.cli import main
from tests.conftest import Shown


def test_it_lists_all_with_those_of_plugins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The toy has 3 x 7 weights and biases of 7, and one product per weight and pixel."""
    (tmp_path / "toy.py").write_text(
        "from torch import nn\n"
        "from pocketfed.core.backbones import register\n"
        "pool = [nn.AdaptiveAvgPool2d(1), nn.Flatten()]\n"
        'register("toy-from-outside", lambda: nn.Sequential(nn.Conv2d(3, 7, 1), *pool), features=7)\n'
    )
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setattr(
        sys, "argv", ["pocketfed", "backbones", "--plugin", str(tmp_path / "toy.py"), "--side", "1000"]
    )
    kept = {name: BACKBONES[name] for name in ("compact", "vit")}
    monkeypatch.setattr("pocketfed.core.backbones.BACKBONES", kept)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code in (0, None)
    printed = capsys.readouterr().out
    rows = [line.replace("\u2502", " ").split() for line in printed.splitlines()]
    assert ["toy-from-outside", "28", "7", "21.0"] in rows
    assert [row[0] for row in rows if row and row[0] in ("compact", "vit")] == ["compact", "vit"]


def test_named_ones_come_with_their_rewrites(pocketfed: Callable[..., Shown]) -> None:
    shown = pocketfed("backbones", "timm:mobilenetv3_small_050+groupnorm", "resnet", "--markdown")
    assert shown.code == 0, shown.err
    lines = shown.out.splitlines()
    assert lines[0] == "| backbone | parameters | features | M products, 32 x 32 |"
    assert lines[3].startswith("| `resnet` | 690,552 | 192 | ")
    assert (
        "timm:mobilenetv3_small_050+groupnorm: 34 GroupNorm: kept; its gradient is written with products and means"
        in lines
    )
    assert any(
        line.startswith("resnet: ") and "BatchNorm2d: the batch's own statistics" in line for line in lines
    )
    assert pocketfed("backbones", "resnett").code == 2


@pytest.mark.parametrize(
    "name", [name for name in BACKBONES if name.startswith(("repvgg", "ghost", "compact"))]
)
def test_the_search_for_constants_is_told(name: str) -> None:
    """Of the networks that have its constants, and of no others."""
    found = catalogue.constants(name)
    assert len(found) == (name in ("repvgg", "repvgg-csla", "ghost", "ghost-csla"))
    assert all("photos drawn, rounds 10, seed 0, sounds synthesised" in line for line in found)


def test_a_side_that_a_backbone_does_not_take(
    pocketfed: Callable[..., Shown], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The least side of captures is taken by all; one larger than its patches, by this one."""
    monkeypatch.setitem(
        BACKBONES, "coarse", (lambda: nn.Sequential(nn.Conv2d(3, 8, 40, 40), nn.Flatten()), 8)
    )
    shown = pocketfed("backbones", "coarse", "--side", "32")
    assert shown.code == 2
    assert "Error: coarse takes no photos of 32 x 32 (" in shown.err
    assert "choose another --side" in shown.err
    assert pocketfed("backbones", "vit_tiny", "--side", "8").code == 2
    assert all(catalogue.counts(name, 16).products > 0 for name in (*PHONES, "vit_tiny"))


def test_figures_are_measured_once_and_kept(
    pocketfed: Callable[..., Shown], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program that cannot be made has a reason below the table; a file of another batch is refused."""
    asked = []

    def survey(name: str, *others: object) -> dict[str, dict[str, object]]:
        asked.append(name)
        row: dict[str, object] = {
            "executorch": {"median_ms": 2.0}, "ratio_to_eager": 0.5, "program_bytes": 2_000_000, "arena_bytes": 10_000,
        }  # fmt: skip
        return {key: row for key in ("step", "embedding", "float32", "int8")} | {
            "coreml": {"refused": "no such operator"}
        }

    monkeypatch.setattr("pocketfed.simulator.bench.survey.survey", survey)
    file = tmp_path / "figures.json"
    for names in (["vit"], ["vit", "compact"]):
        shown = pocketfed("backbones", *names, "--measure", file, "--markdown")
        assert shown.code == 0, shown.err
    assert asked == ["vit", "compact"]
    assert "| 2 (0.50) | 2 (0.50) | 2 (0.50) | 2 (0.50) | 0.01 | 2.00 | 2.00 | 2.00 | none |" in shown.out
    assert "compact has no coreml program: no such operator" in shown.out
    shown = pocketfed("backbones", "vit", "--measure", file, "--batch", "8")
    assert shown.code == 2
    assert "measured elsewhere, or with another --batch" in shown.err.replace("\n", " ")
    file.write_text("[]")
    assert pocketfed("backbones", "vit", "--measure", file).code == 2

"""`pocketfed backbones`."""

import sys
from pathlib import Path

import pytest

from pocketfed.core.backbones import BACKBONES
from pocketfed.simulator.cli import main


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

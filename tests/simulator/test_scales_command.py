"""`pocketfed scales`: a search from captures to a file with which a network can be built."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from pocketfed.core.backbones.linear_branches import Form
from pocketfed.core.backbones.repvgg import RepVgg, Size
from pocketfed.core.backbones.scales_file import about_scales, read_scales
from pocketfed.core.modality import Modality
from pocketfed.server.checkpoint import Checkpoint, save_checkpoint
from pocketfed.simulator import run_folder
from pocketfed.simulator.config_file import build_config
from pocketfed.simulator.program import task_of
from tests.conftest import Shown
from tests.simulator.test_cli import album

SMALL = Size((6, 8), (1, 2), (2, 2), nn.SiLU)


PLUGIN = """
from torch import nn
from pocketfed.core.backbones import register
from pocketfed.core.backbones.linear_branches import Form
from pocketfed.core.backbones.repvgg import RepVgg, Size
register("small-hs", lambda: RepVgg(Size((6, 8), (1, 2), (2, 2), nn.SiLU), Form.HS), features=8)
"""


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    (tmp_path / "small.py").write_text(PLUGIN)
    return tmp_path / "small.py"


@pytest.mark.long
def test_a_search_and_its_result(pocketfed: Callable[..., Shown], plugin: Path, tmp_path: Path) -> None:
    """Phones, aggregation and privacy of the configuration do not matter: one place has all captures."""
    photos = album(tmp_path / "album", 24)
    config, file, again = tmp_path / "c.toml", tmp_path / "s.safetensors", tmp_path / "again.safetensors"
    config.write_text(
        "aggregator = 'krum'\n[aggregation]\nfaulty = 1\n[captures]\nside = 16\n[learning]\nbatch = 8\n"
        "[fleet]\nphones = 7\n"
    )
    shown = pocketfed(
        "scales", "--backbone", "small", "--plugin", plugin, "--config", config, "--photos", photos, "--rounds", 1,
        "--seed", 3, "--run", tmp_path / "run", "-o", file,
    )  # fmt: skip
    assert shown.code == 0, shown.err
    assert str(file) in shown.out.replace("\n", "")
    scales = read_scales(file)
    begun = [branches.constant(scale) for branches, scale in SMALL.branches()]
    assert all(
        not torch.equal(ours.kernels[0], old.kernels[0]) for ours, old in zip(scales, begun, strict=True)
    )
    RepVgg(SMALL, Form.REPOPT, scales)
    about = about_scales(file)
    assert (about["backbone"], about["rounds"], about["seed"], about["photos"]) == (
        "small",
        "1",
        "3",
        "album",
    )
    assert pocketfed("scales", "--from", tmp_path / "run", "-o", again).code == 0
    assert again.read_bytes() == file.read_bytes()


def test_the_newest_scales_of_a_run_are_taken(
    pocketfed: Callable[..., Shown], plugin: Path, tmp_path: Path
) -> None:
    """Block by block, from the flat weights of the newest round."""
    config = build_config(
        {
            "plugins": [str(plugin)],
            "captures": {"photos": str(tmp_path / "album"), "side": 16},
            "learning": {"backbone": "small-hs", "batch": 8},
        }
    )
    folder = run_folder.create(tmp_path / "run", config)
    task = task_of(config, [Modality.PHOTO])
    weights = np.random.default_rng(0).random(task.layout.size, dtype=np.float32)
    save_checkpoint(folder.checkpoints, Checkpoint(0, 0, weights, task.layout, {"round": 0}))
    shown = pocketfed("scales", "--from", folder.path, "-o", tmp_path / "s.safetensors")
    assert (shown.code, "no finished round yet" in shown.err.replace("\n", " ")) == (2, True)
    save_checkpoint(folder.checkpoints, Checkpoint(4, 0, weights, task.layout, {"round": 4}))
    assert pocketfed("scales", "--from", folder.path, "-o", tmp_path / "s.safetensors").code == 0
    tensors = task.layout.unpack(torch.from_numpy(weights))
    for block, own in enumerate(read_scales(tmp_path / "s.safetensors")):
        prefix = f"backbone.blocks.{block}.0"
        for i, kernel in enumerate(own.kernels):
            assert torch.equal(kernel, tensors[f"{prefix}.scales.kernel{i}"])
        assert torch.equal(own.identity, tensors.get(f"{prefix}.identity", torch.ones_like(own.identity)))
    assert about_scales(tmp_path / "s.safetensors")["rounds"] == "4"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "give --backbone NAME to search, or --from RUN"),
        (["--backbone", "compact"], "'compact' has no form with trained scales; choose one of: repvgg, "),
        (["--from", "absent"], "absent is no run folder"),
    ],
)
def test_what_cannot_be_searched_is_said(
    pocketfed: Callable[..., Shown], words: list[str], said: str
) -> None:
    shown = pocketfed("scales", *words)
    assert shown.code == 2
    assert said in shown.err.replace("\n", " ")

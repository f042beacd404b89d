"""The shipped configuration on real captures, cut short: both modalities gain on the untrained encoder."""

from pathlib import Path

import pytest

from pocketfed.simulator.config_file import build_config, overlay, read_toml
from pocketfed.simulator.simulate import simulate
from tests.conftest import REPOSITORY, Silent


@pytest.mark.long
def test_four_rounds_of_the_shipped_configuration_gain_on_both_modalities(
    real_data: Path, tmp_path: Path
) -> None:
    """benchmarks/accuracy.py has the whole run; a third of the photos and four rounds must show already."""
    flags = {
        "captures.photos": str(real_data / "cifar10_subset.npz"),
        "captures.sounds": str(real_data / "arabic_speech_commands10_16k.npz"),
        "captures.photos_limit": 1500,
        "rounds": 4,
        "evaluate_every": 0,
        "runtime": "torch",
    }
    config = build_config(overlay(read_toml(REPOSITORY / "configs" / "cifar10-arabic.toml"), flags))
    watcher = Silent()
    simulate(config, tmp_path / "run", watcher)
    before, after = watcher.records[0], watcher.records[-1]
    assert after["phones"] == 10
    assert after["probe"]["photo"] > before["probe"]["photo"] + 0.02
    assert after["knn"]["sound"] > before["knn"]["sound"] + 0.08
    assert all(loss < 3.64 for loss in after["loss"].values())

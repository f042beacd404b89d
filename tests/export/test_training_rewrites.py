"""What a person is told of a network's layers before its step is exported."""

from torch import nn

from pocketfed.core.backbones import build_backbone
from pocketfed.export.training_rewrites import training_rewrites


def test_every_kind_of_layer_is_said_with_its_number() -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3, groups=8),
        nn.Conv2d(8, 4, 1), nn.BatchNorm2d(4), nn.GroupNorm(2, 4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2),
    )  # fmt: skip
    every = training_rewrites(network)
    found = {rewrite.layers: rewrite.becomes for rewrite in every}
    assert "24 numbers, are part of the weights" in found["2 BatchNorm2d"]
    assert "first maximum" in found["1 MaxPool2d"]
    assert found["1 GroupNorm"].startswith("kept")
    assert "kink" in found["1 ReLU"]
    assert [rewrite.becomes.partition(":")[0] for rewrite in every if rewrite.layers == "1 Conv2d"] == [
        "dense or grouped", "depthwise", "1 x 1",
    ]  # fmt: skip
    assert not any("Linear" in layers for layers in found)


def test_of_a_network_of_timm() -> None:
    network, _ = build_backbone("timm:mobilenetv3_small_050")
    assert any(rewrite.layers == "34 BatchNormAct2d" for rewrite in training_rewrites(network))
    grouped, _ = build_backbone("timm:mobilenetv3_small_050+groupnorm")
    assert not any("BatchNorm" in rewrite.layers for rewrite in training_rewrites(grouped))

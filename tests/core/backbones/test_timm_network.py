"""timm's networks with group normalisation in place of batch normalisation, and without chance."""

import pytest
import torch
from torch import nn

from pocketfed.core.backbones import build_backbone, timm_network
from pocketfed.core.backbones.group_norms import groups, without_batch_norms
from pocketfed.core.encoder import build_encoder
from pocketfed.core.errors import ConfigError
from pocketfed.core.layout import BATCH_NORMS, Layout


def test_group_norms_stand_where_batch_norms_stood() -> None:
    """With their activations, and nothing that travels besides weights."""
    name = "timm:mobilenetv3_small_050"
    plain, grouped = (build_backbone(one)[0] for one in (name, f"{name}+groupnorm"))
    norms = [part for part in plain.modules() if isinstance(part, BATCH_NORMS)]
    found = [part for part in grouped.modules() if isinstance(part, nn.GroupNorm)]
    assert [part.num_channels for part in found] == [part.num_features for part in norms]
    acts = [
        [type(part) for part in net.modules() if isinstance(part, (nn.ReLU, nn.Hardswish))]
        for net in (plain, grouped)
    ]
    assert acts[0] == acts[1]
    layout = Layout.of(build_encoder(f"{name}+groupnorm", seed=0))
    assert layout.buffers == ()
    assert layout.size < Layout.of(build_encoder(name, seed=0)).size
    x = torch.randn(2, 3, 32, 32)
    assert torch.allclose(grouped(x)[:1], grouped(x[:1]), atol=1e-5)  # one photo knows nothing of another


def test_the_normalisation_and_its_activation_by_formula() -> None:
    from timm.layers import BatchNormAct2d  # type: ignore[attr-defined]

    network = nn.Sequential(BatchNormAct2d(12), nn.BatchNorm2d(3))
    assert without_batch_norms(network) == 2
    x = torch.randn(2, 12, 4, 5)
    parts = x.reshape(2, 2, 6 * 20)
    spread = torch.sqrt(parts.var(2, correction=0, keepdim=True) + 1e-5)
    expected = torch.relu(((parts - parts.mean(2, keepdim=True)) / spread).reshape(x.shape))
    assert torch.allclose(network[0](x), expected, atol=1e-6)
    assert isinstance(network[1], nn.GroupNorm)


@pytest.mark.parametrize(
    ("channels", "count"), [(64, 8), (32, 8), (24, 4), (16, 4), (12, 2), (8, 2), (6, 1), (3, 1), (40, 8)]
)
def test_groups_divide_the_channels_and_are_no_single_channels(channels: int, count: int) -> None:
    assert groups(channels) == count


def test_networks_without_batch_normalisation_and_unknown_ones_are_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"convnext_atto has no batch normalisation to replace; leave \+groupnorm out"
    ):
        build_backbone("timm:convnext_atto+groupnorm")
    with pytest.raises(ConfigError, match=r"near it are: .*mobilenetv3_small_050"):
        build_backbone("timm:mobilenetv3_smal_050+groupnorm")


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "coatnet_pico_rw_224"])
def test_networks_of_one_size_are_refused(name: str) -> None:
    with pytest.raises(
        ConfigError,
        match=rf"^timm:{name} does not take inputs of 64 x 64 pixels \(.+\); choose a network without",
    ):
        build_backbone(f"timm:{name}")


def test_dropout_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """In training the same input gives the same features, whatever the network drops by its own settings."""
    import timm
    from timm.layers import DropPath  # type: ignore[attr-defined]

    def model(name: str, **settings: object) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(3, 8, 4, 4), nn.Dropout(0.5), DropPath(0.5), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        )

    monkeypatch.setattr(timm, "create_model", model)
    network, features = timm_network.build("any")
    assert (features, network.training) == (8, True)
    x = torch.randn(8, 3, 16, 16)
    assert torch.equal(network(x), network(x))

"""ResNet against torchvision's, weight by weight."""

import pytest
import torch
import torchvision
from torch import nn

from pocketfed.core.backbones.resnet import resnet18, resnet34
from tests.core.backbones.networks import parameters, shake_norms


@pytest.mark.parametrize(("name", "count"), [("resnet18", 11_689_512), ("resnet34", 21_797_672)])
def test_published_sizes_have_the_published_counts(name: str, count: int) -> None:
    with torch.device("meta"):
        network = {"resnet18": resnet18, "resnet34": resnet34}[name]()
    assert parameters(network) + 512 * 1000 + 1000 == count


def test_the_form_for_small_inputs_has_its_count() -> None:
    with torch.device("meta"):
        network = resnet18(small=True)
    assert parameters(network) + 512 * 10 + 10 == 11_173_962


def test_it_is_the_function_of_torchvision() -> None:
    """Same order of modules inside blocks, so weights and statistics are copied in order."""
    theirs = torchvision.models.resnet18(num_classes=1)
    theirs.fc = nn.Identity()
    shake_norms(theirs)
    ours = resnet18()
    for into, out_of in zip(ours.state_dict().values(), theirs.state_dict().values(), strict=True):
        into.copy_(out_of)
    x = torch.randn(2, 3, 64, 96)
    for mode in (True, False):
        assert torch.allclose(ours.train(mode)(x), theirs.train(mode)(x), rtol=1e-4, atol=1e-4)

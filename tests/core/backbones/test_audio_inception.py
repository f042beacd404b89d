"""AudioRepInceptionNeXt and AudioInceptionNeXt: published counts, and what may be fused and what may not."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from pocketfed.core.backbones.audio_inception_next import FULL, PHONE, AudioInceptionNeXt, CascadeBlock
from pocketfed.core.backbones.audio_rep_inception_next import AudioRepInceptionNeXt, FusedBlock, RepBlock
from pocketfed.core.backbones.folding import ConvNorm, fuse
from pocketfed.core.errors import ExportError
from tests.core.backbones.networks import parameters, products, shake_norms

SMALL = replace(PHONE, width=8, activation=nn.ReLU)
CLASSIFIER = 512 * 309 + 309


def shaken(seed: int = 0) -> AudioRepInceptionNeXt:
    torch.manual_seed(seed)
    network = AudioRepInceptionNeXt(SMALL).eval()
    shake_norms(network, seed)
    return network


def test_published_sizes_have_the_published_counts() -> None:
    with torch.device("meta"):
        rep = AudioRepInceptionNeXt(replace(FULL, inputs=1))
        assert parameters(rep) + CLASSIFIER == 11_834_869
        assert parameters(AudioInceptionNeXt(replace(FULL, inputs=1))) + CLASSIFIER == 11_834_869
        fused = fuse(rep.eval())
    assert parameters(fused) + CLASSIFIER == 11_691_381
    weights = 512 * 309  # the classifier's products
    costs = [products(network, 1, 128, 512) + weights for network in (rep, fused)]
    assert [round(cost / 1e9, 3) for cost in costs] == [2.579, 2.528]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.float64, 1e-10)])
def test_the_fused_network_is_the_same_function(dtype: torch.dtype, tolerance: float) -> None:
    network = shaken().to(dtype)
    fused = fuse(network)
    x = torch.randn(3, 3, 32, 48, dtype=dtype)
    difference = (fused(x) - network(x)).abs().max()
    assert difference <= tolerance * network(x).abs().max()
    assert not torch.allclose(network.train()(x), fused(x), atol=1e-2)  # by the batch's own statistics


def test_the_published_block_fuses_with_its_own_kernels() -> None:
    torch.manual_seed(1)
    block = RepBlock(6, 6, 1, FULL).eval().double()
    shake_norms(block)
    x = torch.randn(2, 6, 24, 40, dtype=torch.float64)
    fused = fuse(nn.Sequential(block).eval())
    assert (fused(x) - block(x)).abs().max() < 1e-10 * block(x).abs().max()
    one = fused[0]  # type: ignore[index]
    assert isinstance(one, FusedBlock)
    assert (one.time.kernel_size, one.frequency.kernel_size) == ((1, 21), (21, 1))
    # 2 axes, 11 + 3 taps less, and three weights and biases of a norm become one bias.
    assert parameters(block) - parameters(one) == 6 * (2 * (11 + 3) + 2 * (3 * 2 - 1))


def test_two_depthwise_convolutions_are_left_and_nothing_behind_them() -> None:
    fused = fuse(shaken())
    blocks = [part for part in fused.modules() if isinstance(part, FusedBlock)]
    assert len(blocks) == sum(SMALL.blocks)
    for block in blocks:
        depthwise = [p for p in block.modules() if isinstance(p, nn.Conv2d) and p.groups > 1]
        assert depthwise == [block.time, block.frequency]
        assert all(p.bias is not None for p in depthwise)


def test_fusing_needs_evaluation_and_leaves_the_network_alone() -> None:
    network = shaken()
    before = {name: part.clone() for name, part in network.state_dict().items()}
    fused = fuse(network)
    with torch.no_grad():
        for part in fused.parameters():
            part.zero_()
    assert all(torch.equal(part, before[name]) for name, part in network.state_dict().items())
    network.stages[1].time[0].norm.train()  # type: ignore[union-attr, index]
    with pytest.raises(ValueError, match="call eval"):
        fuse(network)


def test_the_ancestor_refuses_to_fuse_and_says_why() -> None:
    with pytest.raises(ExportError, match="activation between the time and the frequency kernel"):
        fuse(AudioInceptionNeXt(SMALL).eval())
    with pytest.raises(ExportError, match="no parallel linear branches"):
        fuse(nn.Sequential(nn.Conv2d(3, 3, 1)).eval())


@pytest.mark.parametrize("axis", ["time", "frequency"])
def test_a_stage_reaches_21_places_along_its_own_axis_alone(axis: str) -> None:
    block = RepBlock(4, 4, 1, FULL).double()
    probe = torch.zeros(1, 4, 31, 41, dtype=torch.float64)
    probe[0, :, 15, 20] = 1.0
    moved = sum(branch.conv(probe) for branch in getattr(block, axis))
    rows, columns = (moved[0].abs().sum(0) > 0).nonzero().unbind(1)
    assert len(set(rows.tolist())) == (21 if axis == "frequency" else 1)
    assert len(set(columns.tolist())) == (21 if axis == "time" else 1)


def test_both_families_hold_the_same_weights_and_are_different_functions() -> None:
    rep, ancestor = shaken(), AudioInceptionNeXt(SMALL).eval()
    ancestor.load_state_dict(rep.state_dict())
    x = torch.randn(2, 3, 32, 32)
    assert not torch.allclose(rep(x), ancestor(x), rtol=0.1)


@pytest.mark.parametrize("kind", [RepBlock, CascadeBlock])
def test_blocks_follow_the_formula(kind: type[RepBlock] | type[CascadeBlock]) -> None:
    """Time first; which convolutions have an activation; against the formula written out once more."""
    torch.manual_seed(2)
    block = kind(5, 4, 2, FULL).eval().double()
    shake_norms(block)
    x, relu = torch.randn(2, 5, 24, 30, dtype=torch.float64), torch.relu

    def along(branches: nn.Module) -> list[ConvNorm]:
        return list(branches)  # type: ignore[call-overload, no-any-return]

    head = block.head(x)
    if kind is RepBlock:
        h = relu(head)
        t = relu(h + torch.stack([branch(h) for branch in along(block.time)]).sum(0))
        f = relu(t + torch.stack([branch(t) for branch in along(block.frequency)]).sum(0))
        y = block.narrow(relu(block.widen(f)))
    else:
        pairs = zip(along(block.time), along(block.frequency), strict=True)
        y = block.narrow(block.widen(torch.stack([relu(f(relu(t(head)))) for t, f in pairs]).sum(0)))
    assert torch.allclose(block(x), relu(block.shortcut(x) + y), atol=1e-12)
    assert block(x).shape == (2, 4, 12, 15)


def test_a_block_begins_as_its_shortcut() -> None:
    block = RepBlock(4, 4, 1, FULL)
    x = torch.randn(3, 4, 8, 8)
    assert torch.equal(block(x), torch.relu(x))

"""ViT: the published count, and every part against torch's own or the formula."""

import math

import timm
import torch

from pocketfed.core.backbones.vit import Attention, ViT, places, vit_tiny
from tests.core.backbones.networks import parameters


def test_the_tiny_size_has_the_published_count() -> None:
    """5,717,416 with a classifier of 1000 classes, of which 197 learned places are not ours."""
    with torch.device("meta"):
        network = vit_tiny()
    assert parameters(network) + 192 * 1000 + 1000 + 197 * 192 == 5_717_416


def test_attention_equals_torchs() -> None:
    torch.manual_seed(0)
    ours = Attention(12, 3)
    x = torch.randn(2, 5, 12)
    torchs = torch.nn.MultiheadAttention(12, 3, batch_first=True)
    parts = {**ours.qkv.state_dict(prefix="in_proj_"), **ours.out.state_dict(prefix="out_proj.")}
    torchs.load_state_dict(parts)
    assert torch.allclose(ours(x), torchs(x, x, x)[0], atol=1e-6)


def test_it_is_the_function_of_timm() -> None:
    """With our fixed places in the place of timm's learned ones."""
    torch.manual_seed(1)
    theirs = timm.models.VisionTransformer(
        img_size=(16, 24), patch_size=4, embed_dim=16, depth=2, num_heads=2, num_classes=0, global_pool="token"
    )  # fmt: skip
    ours = ViT(16, 2, 2, 4)
    state = theirs.state_dict()
    assert theirs.pos_embed is not None
    with torch.no_grad():
        theirs.pos_embed.copy_(torch.cat([torch.zeros(1, 16), places(4, 6, 16)]))
    renamed = [
        ("cls_token", "token"), ("patch_embed.proj", "embed"), ("norm1", "attention_norm"), ("attn.proj", "attention.out"),
        ("attn.", "attention."), ("norm2", "mlp_norm"), ("mlp.fc1", "widen"), ("mlp.fc2", "narrow"),
    ]  # fmt: skip
    moved = {}
    for name, value in state.items():
        for old, new in renamed:
            name = name.replace(old, new)
        moved[name] = value
    del moved["pos_embed"]
    ours.load_state_dict(moved)
    x = torch.randn(3, 3, 16, 24)
    assert torch.allclose(ours(x), theirs.eval()(x), atol=1e-5)


def test_places_are_waves_of_row_and_column() -> None:
    found = places(3, 5, 8)
    for row in range(3):
        for column in range(5):
            expected = [
                wave(where * rate)
                for where in (row, column)
                for wave in (math.sin, math.cos)
                for rate in (1.0, 1e-2)
            ]
            assert torch.allclose(found[row * 5 + column], torch.tensor(expected), atol=1e-6)

"""ViT (Dosovitskiy et al., 2021, arXiv 2010.11929) at the tiny size of DeiT (Touvron et al., 2021), attention written out.

    [n, 3, h, w] -> patches, one linear map -> [n, h/p w/p, d] + place, a class token in front -> blocks -> LayerNorm
      -> the class token, [n, d]
    block: x + attention(LN(x)), then x + MLP(LN(x)); MLP: d -> 4d -> d with GELU
    attention of one head: softmax(q k^T / sqrt(d / heads)) v

The attention is two products and a softmax in plain sight, as exporters and phones want it. Every input shares patches,
class token and blocks, whatever its height and width: places are the fixed sines and cosines of row and column, half
of the d numbers for each (Omni-C, by FSSUAVL's authors, does so; the published ViT learns them for one size).

Our choices: fixed places, no dropout; and the phone size: d = 96, 6 blocks, 3 heads, patches of 4.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional


def places(rows: int, columns: int, width: int) -> Tensor:
    """Where each patch lies, float32 [rows * columns, width]: sines and cosines of the row, then of the column.

    Args:
        rows, columns: of patches.
        width: a multiple of 4.
    """
    rates = torch.pow(10_000.0, -torch.arange(width // 4) / (width // 4))  # [width/4]

    def waves(count: int) -> Tensor:  # [count, width/2]
        angles = torch.outer(torch.arange(count, dtype=torch.float32), rates)
        return torch.cat([torch.sin(angles), torch.cos(angles)], 1)

    down = waves(rows).unsqueeze(1).expand(-1, columns, -1)
    across = waves(columns).unsqueeze(0).expand(rows, -1, -1)
    return torch.cat([down, across], 2).reshape(rows * columns, width)


class Attention(nn.Module):
    """Each token looks at all: [n, t, d] -> [n, t, d]."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """[n, t, d] -> [n, t, d]."""
        n, t, d = x.shape
        size = d // self.heads
        parts = self.qkv(x).split(d, 2)  # three times [n, t, d]
        q, k, v = (
            part.reshape(n, t, self.heads, size).transpose(1, 2).reshape(n * self.heads, t, size)
            for part in parts
        )
        scores = torch.bmm(q * (1.0 / math.sqrt(size)), k.transpose(1, 2))  # [n heads, t, t]
        seen = torch.bmm(torch.softmax(scores, 2), v)  # [n heads, t, size]
        out: Tensor = self.out(seen.reshape(n, self.heads, t, size).transpose(1, 2).reshape(n, t, d))
        return out


class Block(nn.Module):
    """Attention and MLP, each behind a LayerNorm and beside a skip: [n, t, d] -> [n, t, d]."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width, eps=1e-6)
        self.attention = Attention(width, heads)
        self.mlp_norm = nn.LayerNorm(width, eps=1e-6)
        self.widen = nn.Linear(width, 4 * width)
        self.narrow = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """[n, t, d] -> [n, t, d]."""
        x = x + self.attention(self.attention_norm(x))
        mixed: Tensor = self.narrow(functional.gelu(self.widen(self.mlp_norm(x))))
        return x + mixed


class ViT(nn.Module):
    """See the module's docstring.

    Args:
        width: d, a multiple of 4 and of `heads`.
        depth: blocks.
        heads: of each attention.
        patch: side in pixels; what is left over at the right and the bottom is not seen.
    """

    def __init__(self, width: int, depth: int, heads: int, patch: int) -> None:
        super().__init__()
        self.features = width
        self.embed = nn.Conv2d(3, width, patch, patch)
        self.token = nn.Parameter(torch.empty(1, 1, width))
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        nn.init.trunc_normal_(self.token, std=0.02)
        for part in self.blocks.modules():
            if isinstance(part, nn.Linear):
                nn.init.trunc_normal_(part.weight, std=0.02)
                nn.init.zeros_(part.bias)

    def forward(self, inputs: Tensor) -> Tensor:
        """[n, 3, h, w] -> [n, features]."""
        patches = self.embed(inputs)  # [n, d, h/p, w/p]
        n, d, rows, columns = patches.shape
        tokens = patches.flatten(2).transpose(1, 2) + places(rows, columns, d).to(patches.dtype)
        x = self.norm(self.blocks(torch.cat([self.token.expand(n, -1, -1), tokens], 1)))
        summary: Tensor = x[:, 0]
        return summary


def vit_tiny() -> nn.Module:
    """DeiT's tiny size, patches of 16: 5.5 M parameters without a classifier, 192 features."""
    return ViT(192, 12, 3, 16)


def phone() -> nn.Module:
    """The phone size, 96 features."""
    return ViT(96, 6, 3, 4)

"""What tests of backbones share."""

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def parameters(network: nn.Module) -> int:
    """How many parameters a network has."""
    return sum(part.numel() for part in network.parameters())


def products(network: nn.Module, inputs: int, height: int, width: int) -> int:
    """Multiply-adds of convolutions and matrix products for one input, of a network on the meta device."""
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        network(torch.empty(1, inputs, height, width, device="meta"))
    return counter.get_total_flops() // 2


def shake_norms(network: nn.Module, seed: int = 0) -> None:
    """Give every batch normalisation weights and running statistics that are far from neutral."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for part in network.modules():
            if isinstance(part, nn.BatchNorm2d):
                assert part.running_mean is not None
                assert part.running_var is not None
                part.weight.copy_(0.5 + torch.rand(part.num_features, generator=generator))
                part.bias.copy_(torch.randn(part.num_features, generator=generator))
                part.running_mean.copy_(torch.randn(part.num_features, generator=generator))
                part.running_var.copy_(0.5 + 2 * torch.rand(part.num_features, generator=generator))

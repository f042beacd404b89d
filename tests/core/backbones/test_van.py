"""VAN with LKA and LSKA: published counts, reach, rank, cost and gating."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from pocketfed.core.backbones.van import BASE, SMALL, TINY, Gate, Kernels, Size, Van, kernels, split
from tests.core.backbones.networks import parameters, products

REACHES = (7, 11, 23, 35, 53)


def formula(size: Size, taps: int, convolutions: int, classes: int = 1000) -> int:
    """Parameters of a whole VAN whose gates have so many taps per channel in so many depthwise convolutions."""

    def stages() -> Iterator[int]:
        inputs = 3
        for i, (c, r, blocks) in enumerate(zip(size.widths, size.ratios, size.blocks, strict=True)):
            yield (49 if i == 0 else 9) * inputs * c + c + 2 * c + 2 * c  # embedding, its BN, LayerNorm
            attention = 3 * (c * c + c) + taps * c + convolutions * c
            mlp = (c * r * c + r * c) + (9 * r * c + r * c) + (r * c * c + c)
            yield blocks * (attention + mlp + 2 * (2 * c + c))  # each branch has a BN and a scale
            inputs = c

    return sum(stages()) + size.widths[-1] * classes + classes


@pytest.mark.parametrize(
    ("size", "reach", "lska", "lka"),
    [
        (TINY, 7, 4.010, 4.016), (TINY, 23, 4.029, 4.106), (TINY, 35, 4.042, 4.221), (TINY, 53, 4.061, 4.490),
        (SMALL, 23, 13.733, 13.862), (SMALL, 53, 13.787, 14.507), (BASE, 23, 26.293, 26.578), (BASE, 53, 26.412, 28.007),
    ],
)  # fmt: skip
def test_published_sizes_have_the_published_counts(size: Size, reach: int, lska: float, lka: float) -> None:
    dense, _, dilated = split(reach)
    with torch.device("meta"):
        classifier = parameters(nn.Linear(size.widths[-1], 1000))
        separable = parameters(Van(size, Kernels.LSKA, reach)) + classifier
        square = parameters(Van(size, Kernels.LKA, reach)) + classifier
    assert (round(separable / 1e6, 3), round(square / 1e6, 3)) == (lska, lka)
    assert separable == formula(size, 2 * (dense + dilated), 4)
    assert square == formula(size, dense**2 + dilated**2, 2)


def test_products_are_the_published_ones() -> None:
    with torch.device("meta"):
        for size, kind, reach, billions in (
            (TINY, Kernels.LSKA, 23, 0.833), (TINY, Kernels.LKA, 53, 1.016),
            (SMALL, Kernels.LSKA, 53, 2.468), (BASE, Kernels.LKA, 23, 4.993),
        ):  # fmt: skip
            cost = products(Van(size, kind, reach), 3, 224, 224) + size.widths[-1] * 1000
            assert round(cost / 1e9, 3) == billions


def response(kind: Kernels, reach: int) -> Tensor:
    """What the kernels of one channel make of a single bright pixel, without their biases; [2 reach + 1, same]."""
    torch.manual_seed(reach)
    chain = kernels(1, kind, reach).double()
    pixel = torch.zeros(1, 1, 2 * reach + 1, 2 * reach + 1, dtype=torch.float64)
    pixel[0, 0, reach, reach] = 1.0
    with torch.no_grad():
        for part in chain:
            assert isinstance(part, nn.Conv2d)
            assert part.bias is not None
            part.bias.zero_()
        out: Tensor = chain(pixel)[0, 0]
    return out


@pytest.mark.parametrize("reach", REACHES)
@pytest.mark.parametrize("kind", list(Kernels))
def test_kernels_reach_exactly_k_and_only_separable_ones_have_rank_one(kind: Kernels, reach: int) -> None:
    found = response(kind, reach)
    half = (reach - 1) // 2
    window = slice(reach - half, reach + half + 1)
    assert (found[window, window] != 0).all()
    assert (found != 0).sum() == reach * reach
    rank = int(np.linalg.matrix_rank(found.numpy()))
    assert rank == 1 if kind in (Kernels.LSKA, Kernels.LSKA_TRIVIAL) else rank > 1


@pytest.mark.parametrize("reach", REACHES)
def test_separable_kernels_equal_one_square_kernel_of_their_outer_product(reach: int) -> None:
    """Each pair, borders included, without its biases."""
    chain = kernels(3, Kernels.LSKA, reach).double()
    x = torch.randn(2, 3, 40, 40, dtype=torch.float64)
    for i in (0, 2):
        across, down = chain[i], chain[i + 1]
        assert isinstance(across, nn.Conv2d)
        assert isinstance(down, nn.Conv2d)
        cascade = functional.conv2d(
            functional.conv2d(x, across.weight, None, 1, across.padding, across.dilation, 3),
            down.weight, None, 1, down.padding, down.dilation, 3,
        )  # fmt: skip
        taps, dilation = across.weight.shape[3], across.dilation[0]
        assert across.dilation[1] == dilation
        padding = dilation * (taps // 2)
        square = functional.conv2d(x, down.weight * across.weight, None, 1, padding, dilation, 3)
        assert (cascade - square).abs().max() < 1e-6


def test_cost_is_linear_in_k_for_separable_kernels_and_quadratic_for_square_ones() -> None:
    def taps(kind: Kernels, reach: int) -> int:
        return sum(part.weight.numel() for part in kernels(1, kind, reach))  # type: ignore[misc, operator]

    assert [taps(kind, 23) for kind in (Kernels.LKA_TRIVIAL, Kernels.LSKA_TRIVIAL, Kernels.LKA, Kernels.LSKA)] == [
        529, 46, 74, 24,
    ]  # fmt: skip
    assert [taps(kind, 53) for kind in (Kernels.LKA_TRIVIAL, Kernels.LSKA_TRIVIAL, Kernels.LKA, Kernels.LSKA)] == [
        2809, 106, 314, 44,
    ]  # fmt: skip
    for kind, degree in ((Kernels.LSKA, 1), (Kernels.LKA, 2)):
        reaches = np.array([23, 35, 41, 53])  # of one dilation
        cost = np.array([taps(kind, k) for k in reaches])
        fit = np.polynomial.Polynomial.fit(reaches, cost, degree)
        assert np.abs(fit(reaches) - cost).max() < 1e-9
    with pytest.raises(ValueError, match="exactly 24"):
        kernels(1, Kernels.LSKA, 24)


def test_a_gate_multiplies_by_its_map() -> None:
    gate = Gate(5, Kernels.LSKA, 11)
    x = torch.randn(2, 5, 16, 20)
    assert torch.allclose(gate(x) / x, gate.mix(gate.kernels(x)), rtol=1e-4, atol=1e-5)
    assert not gate(torch.zeros(1, 5, 16, 16)).any()

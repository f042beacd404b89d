"""The batch in pieces: the same results whatever the network does with its images, and the right amount of pieces."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import functional

from pocketfed.export.lowering import Passes
from pocketfed.export.lowering.graph import pieces
from pocketfed.export.lowering.graph.pieces import (
    MAX_NARROW_PIECES,
    MAX_PIECES,
    NARROW_CHANNELS,
    PIECE_BYTES,
    Activation,
    count_pieces,
    split_batch,
)
from tests.export.lowering.checks import assert_lowers, targets, with_gradients

BATCH = 4
Network = Callable[[Tensor, Tensor], Tensor]


def convolved(x: Tensor, w: Tensor) -> Tensor:
    """[n, 4, h, w] -> [n, 4, h, w]."""
    return functional.conv2d(x, w, padding=1)


def residual(x: Tensor, w: Tensor) -> Tensor:
    y = functional.silu(functional.group_norm(convolved(x, w), 2))
    return (y + functional.silu(convolved(y, w))).mean((2, 3))


def branches(x: Tensor, w: Tensor) -> Tensor:
    first, second = torch.split(convolved(x, w), [1, 3], 1)
    joined = torch.cat([second, first * 2.0], 1)[:, 1:]
    return functional.pad(joined, (0, 1, 1, 0)).sum(-1)


def pooled(x: Tensor, w: Tensor) -> Tensor:
    y = functional.max_pool2d(convolved(x, w), 2)
    return functional.adaptive_avg_pool2d(functional.avg_pool2d(y, 2), 1).flatten(1)


def gated(x: Tensor, w: Tensor) -> Tensor:
    y = convolved(x, w)
    gate = torch.sigmoid(y.mean((2, 3), keepdim=True)).expand(y.shape)
    return y * gate.reshape(y.shape) + y[:, :, :1]


def mixed_by_the_batch(x: Tensor, w: Tensor) -> Tensor:
    y = functional.batch_norm(convolved(x, w), None, None, training=True)
    return convolved(functional.silu(y), w)


def mixed_by_a_broadcast(x: Tensor, w: Tensor) -> Tensor:
    y = convolved(x, w)
    return y + y.mean((1, 2, 3)) + y.sum(0)


def weights_as_long_as_the_batch(x: Tensor, w: Tensor) -> Tensor:
    return convolved(x, w) * w.sum((1, 2, 3)).reshape(1, 4, 1, 1)


NETWORKS: list[Network] = [
    residual, branches, pooled, gated, mixed_by_the_batch, mixed_by_a_broadcast, weights_as_long_as_the_batch,
]  # fmt: skip


def example() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return (
        torch.randn(BATCH, 4, 4, 4, generator=generator),
        torch.randn(4, 4, 3, 3, generator=generator),
    )


@pytest.mark.parametrize("network", NETWORKS, ids=lambda network: network.__name__)
@pytest.mark.parametrize("piece_bytes", [1, 512])
def test_pieces_give_the_same_outputs_and_gradients(
    network: Network, piece_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pieces, "PIECE_BYTES", piece_bytes)
    assert_lowers(with_gradients(network), example())


def test_a_layer_runs_once_per_piece_and_the_pass_can_be_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "PIECE_BYTES", 1)

    def products(passes: Passes) -> int:
        names = targets(assert_lowers(with_gradients(residual), example(), passes))
        return sum(name in ("aten.mm.default", "aten.linear.default") for name in names)

    assert products(Passes()) > 1.5 * products(Passes(batch_pieces=False))


def test_one_piece_goes_through_all_layers_before_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "PIECE_BYTES", 1)

    def two_layers(x: Tensor, w: Tensor) -> tuple[Tensor, ...]:
        return (torch.relu(convolved(torch.relu(convolved(x, w)), w)),)

    graph = split_batch(make_fx(two_layers, tracing_mode="fake")(*example())).graph
    order = [node for node in graph.nodes if node.target is torch.ops.aten.convolution.default]
    assert len(order) == 2 * BATCH  # four channels are few
    for first, second in zip(order[0::2], order[1::2], strict=True):
        assert second.args[0].args[0] is first  # through a relu


def test_small_activations_stay_whole() -> None:
    module = make_fx(lambda x, w: (torch.relu(convolved(x, w)),), tracing_mode="fake")(*example())
    assert split_batch(module) is module


@given(st.integers(1, 200), st.integers(1, 64 * PIECE_BYTES), st.integers(1, 2 * NARROW_CHANNELS))
def test_pieces_are_equal_few_and_small_if_possible(batch: int, size: int, channels: int) -> None:
    count = count_pieces(batch, Activation(size, channels))
    assert batch % count == 0
    assert count <= (MAX_NARROW_PIECES if channels <= NARROW_CHANNELS else MAX_PIECES)
    smaller = [other for other in range(1, count) if batch % other == 0]
    assert all(other * PIECE_BYTES < size for other in smaller)


def test_examples_of_the_number_of_pieces() -> None:
    assert count_pieces(64, Activation(PIECE_BYTES, 32)) == 1
    assert count_pieces(64, Activation(PIECE_BYTES + 1, 32)) == 2
    assert count_pieces(64, Activation(100 * PIECE_BYTES, 32)) == MAX_PIECES
    assert count_pieces(64, Activation(100 * PIECE_BYTES, 16)) == MAX_NARROW_PIECES
    assert count_pieces(64, Activation(3 * PIECE_BYTES, 16)) == 4
    assert count_pieces(7, Activation(100 * PIECE_BYTES, 16)) == 1

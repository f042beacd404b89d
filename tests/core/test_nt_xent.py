"""NT-Xent against a brute-force double loop, and the properties that the papers rely on."""

import math

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pocketfed.core.objectives import nt_xent


def brute_force(first: NDArray[np.float64], second: NDArray[np.float64], temperature: float) -> float:
    z = np.concatenate([first, second])
    z = z / np.linalg.norm(z, axis=1, keepdims=True)
    rows, total = len(z), 0.0
    for i in range(rows):
        partner = (i + rows // 2) % rows
        denominator = sum(math.exp(float(z[i] @ z[k]) / temperature) for k in range(rows) if k != i)
        total -= math.log(math.exp(float(z[i] @ z[partner]) / temperature) / denominator)
    return total / rows


@settings(deadline=None)
@given(
    batch=st.integers(2, 9),
    width=st.integers(2, 12),
    temperature=st.floats(0.1, 2.0),
    absent=st.integers(0, 4),
    seed=st.integers(0, 1000),
)
def test_equals_the_double_loop_over_the_valid_captures(
    batch: int, width: int, temperature: float, absent: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    first, second = rng.standard_normal((2, batch, width))
    valid = torch.ones(batch + absent)
    valid[batch:] = 0
    garbage = 100 * rng.standard_normal((2, absent, width))

    loss = nt_xent(
        torch.from_numpy(np.concatenate([first, garbage[0]])).float(),
        torch.from_numpy(np.concatenate([second, garbage[1]])).float(),
        torch.tensor(temperature, dtype=torch.float32),
        valid,
    )

    assert abs(float(loss) - brute_force(first, second, temperature)) < 1e-5


def test_identical_embeddings_give_the_chance_level() -> None:
    z = torch.ones(8, 5)
    assert abs(float(nt_xent(z, z, torch.tensor(0.5), torch.ones(8))) - math.log(15)) < 1e-6


def test_order_of_captures_does_not_matter() -> None:
    generator = torch.Generator().manual_seed(0)
    first, second = torch.randn(2, 7, 4, generator=generator)
    order = torch.randperm(7, generator=generator)
    plain = nt_xent(first, second, torch.tensor(0.3), torch.ones(7))
    shuffled = nt_xent(first[order], second[order], torch.tensor(0.3), torch.ones(7))
    assert torch.allclose(plain, shuffled, atol=1e-6)


def test_captures_that_are_not_there_have_no_gradient() -> None:
    first = torch.randn(4, 3, generator=torch.Generator().manual_seed(1), requires_grad=True)
    valid = torch.tensor([1.0, 1.0, 1.0, 0.0])
    nt_xent(first, first.detach() + 0.1, torch.tensor(0.3), valid).backward()  # type: ignore[no-untyped-call]
    assert first.grad is not None
    assert torch.equal(first.grad[3], torch.zeros(3))
    assert first.grad[:3].abs().sum() > 0

"""Every optimiser against torch.optim over ten steps at values that are far from neutral."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from pocketfed.core.errors import ConfigError
from pocketfed.core.optimisers import (
    ADAMW,
    NESTEROV,
    OPTIMISERS,
    SGD,
    Optimiser,
    choose_optimiser,
    multiplied,
    proximal,
)

RATES = {
    "learning_rate": 0.07,
    "momentum": 0.8,
    "weight_decay": 0.03,
    "second_momentum": 0.9,
    "epsilon": 1e-3,
    "proximal": 0.2,
}

Oracle = Callable[[list[Tensor]], torch.optim.Optimizer]

ORACLES: dict[str, Oracle] = {
    "sgd": lambda p: torch.optim.SGD(p, 0.07, 0.8, weight_decay=0.03),
    "sgd-nesterov": lambda p: torch.optim.SGD(p, 0.07, 0.8, weight_decay=0.03, nesterov=True),
    "adamw": lambda p: torch.optim.AdamW(p, 0.07, (0.8, 0.9), 1e-3, weight_decay=0.03),
}


def loss_of(theta: Tensor, step: int) -> Tensor:
    """A loss whose gradient differs between steps and coordinates, and whose curvature keeps ten steps from being chaos."""
    return 0.3 * (torch.sin(theta + torch.arange(len(theta)) + step) * (theta + 0.5)).sum()


def run(optimiser: Optimiser, start: Tensor, mu: float = 0.0, multipliers: Tensor | None = None) -> Tensor:
    rates = {name: torch.tensor(value) for name, value in RATES.items()}
    theta, state = start.clone(), torch.zeros(optimiser.state_size(len(start)))
    for step in range(10):
        leaf = theta.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(loss_of(leaf, step), leaf)
        gradient = proximal(multiplied(gradient, multipliers), theta, start, torch.tensor(mu))
        theta, state = optimiser.update(theta, gradient, state, rates)
        assert state.shape == (optimiser.state_size(len(start)),)
    return theta


def run_oracle(build: Oracle, start: Tensor, mu: float = 0.0, multipliers: Tensor | None = None) -> Tensor:
    parameter = start.clone().requires_grad_()
    optimiser = build([parameter])
    for step in range(10):
        optimiser.zero_grad()
        loss_of(parameter, step).backward()  # type: ignore[no-untyped-call]
        assert parameter.grad is not None
        if multipliers is not None:
            parameter.grad.mul_(multipliers)
        (0.5 * mu * ((parameter - start) ** 2).sum()).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    return parameter.detach()


def test_every_optimiser_has_an_oracle() -> None:
    assert set(ORACLES) == set(OPTIMISERS)


@pytest.mark.parametrize("name", list(OPTIMISERS))
@pytest.mark.parametrize("mu", [0.0, 0.2])
def test_ten_steps_equal_torch(name: str, mu: float) -> None:
    start = torch.randn(50, generator=torch.Generator().manual_seed(1))
    expected = run_oracle(ORACLES[name], start, mu)
    assert torch.linalg.norm(run(OPTIMISERS[name], start, mu) - expected) < 2e-6 * torch.linalg.norm(expected)


def test_the_rules_differ() -> None:
    start = torch.randn(50, generator=torch.Generator().manual_seed(1))
    results = [run(optimiser, start) for optimiser in (SGD, NESTEROV, ADAMW)]
    assert all(not torch.allclose(a, b, atol=1e-3) for a in results for b in results if a is not b)


@pytest.mark.parametrize("name", list(OPTIMISERS))
def test_multipliers_scale_gradients_and_neither_the_decay_nor_the_proximal_term(name: str) -> None:
    generator = torch.Generator().manual_seed(2)
    start, multipliers = torch.randn(50, generator=generator), 2 * torch.rand(50, generator=generator)
    expected = run_oracle(ORACLES[name], start, 0.2, multipliers=multipliers)
    found = run(OPTIMISERS[name], start, 0.2, multipliers)
    assert torch.linalg.norm(found - expected) < 2e-6 * torch.linalg.norm(expected)


@pytest.mark.parametrize("name", list(OPTIMISERS))
def test_only_linear_rules_say_so(name: str) -> None:
    """Twice the weights, gradient and state give twice the result, or do not."""
    generator = torch.Generator().manual_seed(3)
    rule, rates = OPTIMISERS[name], {name: torch.tensor(value) for name, value in RATES.items()}
    theta, gradient = torch.randn(2, 9, generator=generator)
    state = torch.rand(rule.state_size(9), generator=generator)
    once, twice = (
        rule.update(theta, gradient, state, rates),
        rule.update(2 * theta, 2 * gradient, 2 * state, rates),
    )
    assert all(torch.allclose(2 * a, b) for a, b in zip(once, twice, strict=True)) == rule.linear


def test_an_unknown_optimiser_is_refused() -> None:
    with pytest.raises(ConfigError, match="'lion'; choose one of: sgd, sgd-nesterov, adamw"):
        choose_optimiser("lion")


@pytest.mark.parametrize("optimiser", OPTIMISERS.values(), ids=OPTIMISERS)
def test_those_that_say_so_are_linear_and_the_others_are_not(optimiser: Optimiser) -> None:
    """In weights, gradient and state together, for gradients of any size: a rule that clips would show here."""
    torch.manual_seed(0)
    rates = {name: torch.tensor(value, dtype=torch.float64) for name, value in RATES.items()}

    def sides(scale: float) -> tuple[Tensor, Tensor]:
        size = optimiser.state_size(6)
        one, two = (
            (torch.randn(6).double(), scale * torch.randn(6).double(), torch.rand(size).double())
            for _ in range(2)
        )
        both = (2.0 * one[0] - 3.0 * two[0], 2.0 * one[1] - 3.0 * two[1], 2.0 * one[2] - 3.0 * two[2])
        together, first, second = (torch.cat(optimiser.update(*point, rates)) for point in (both, one, two))
        return together, 2.0 * first - 3.0 * second

    same = [torch.allclose(*sides(scale), rtol=1e-9, atol=1e-12 * scale) for scale in (1e-6, 1.0, 1e6)]
    assert all(same) if optimiser.linear else not any(same)

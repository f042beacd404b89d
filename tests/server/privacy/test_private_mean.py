"""What one phone can move, how much noise there is, and where the clipping norm goes."""

import functools
import math
import os
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pocketfed.core.layout import Layout, Role, Slice
from pocketfed.core.plan import Update
from pocketfed.server.aggregators import AGGREGATORS, Broadcast, FedAvg, GlobalModel, LDawa, build_aggregator
from pocketfed.server.privacy.adaptive_clip import AdaptiveClip
from pocketfed.server.privacy.mechanism import Mechanism
from pocketfed.server.privacy.noise import Normals, system_normals
from pocketfed.server.privacy.private_mean import CLIP, PrivateMean, refusal


def seeded(seed: int) -> Normals:
    return np.random.default_rng(seed).standard_normal


def quiet(count: int) -> NDArray[np.float64]:
    return np.zeros(count)


def begun_with(
    weights: NDArray[np.float32], memory: dict[str, NDArray[np.float32]] | None = None
) -> Broadcast:
    half = len(weights) // 2
    layout = Layout(
        (
            Slice("backbone.w", (half,), Role.BACKBONE, 0),
            Slice("projector.w", (len(weights) - half,), Role.PROJECTOR, half),
        )
    )
    return Broadcast(weights, layout, 1, memory or {})


def fold(rule: PrivateMean, begun: Broadcast, updates: list[Update]) -> GlobalModel:
    state = rule.start(begun)
    for update in updates:
        state = rule.add(state, update)
    return rule.finish(state)


def cohort(seed: int, phones: int, size: int) -> tuple[Broadcast, list[Update]]:
    """Updates whose changes have norms from far below 1 to far above."""
    rng = np.random.default_rng(seed)
    begun = begun_with(rng.standard_normal(size).astype(np.float32))
    scales = 10.0 ** rng.uniform(-3, 3, phones)
    updates = [
        Update((begun.weights + s * rng.standard_normal(size)).astype(np.float32), int(rng.integers(1, 1000)))
        for s in scales
    ]
    return begun, updates


CASES = {
    "seed": st.integers(0, 10_000),
    "phones": st.integers(1, 8),
    "size": st.integers(2, 40),
    "clip": st.floats(1e-3, 1e3),
}


@settings(deadline=None, max_examples=60)
@given(**CASES)
def test_without_noise_it_is_the_sum_of_clipped_changes_over_a_fixed_number(
    seed: int, phones: int, size: int, clip: float
) -> None:
    begun, updates = cohort(seed, phones, size)
    expected = begun.weights.astype(np.float64)
    for update in updates:
        change = update.weights.astype(np.float64) - begun.weights
        length = math.sqrt(math.fsum(change * change))
        expected += (change if length <= clip else change * clip / length) / 5
    rule = PrivateMean(FedAvg(), Mechanism(1.0, clip, updates=5), quiet)
    assert np.allclose(fold(rule, begun, updates).weights, expected, rtol=1e-5, atol=1e-5)


@settings(deadline=None, max_examples=60)
@given(**CASES)
def test_one_phone_moves_the_sum_by_the_norm_and_a_replaced_one_by_twice_that(
    seed: int, phones: int, size: int, clip: float
) -> None:
    begun, updates = cohort(seed, phones, size)
    other = Update((begun.weights - 7 * (updates[0].weights - begun.weights)).astype(np.float32), 10**6)
    nothing = Update(begun.weights, 1)
    rule = PrivateMean(FedAvg(), Mechanism(1.0, clip, updates=5), quiet)

    def total(first: Update) -> NDArray[np.float64]:
        state = rule.start(begun)
        for update in (first, *updates[1:]):
            state = rule.add(state, update)
        return state.total

    exact = 1 + 1e-9  # rounding in float64
    assert np.linalg.norm(total(updates[0]) - total(nothing)) <= clip * exact
    assert np.linalg.norm(total(updates[0]) - total(other)) <= 2 * clip * exact


def test_a_replaced_phone_can_indeed_move_it_by_twice_the_norm() -> None:
    begun = begun_with(np.zeros(4, np.float32))
    rule = PrivateMean(FedAvg(), Mechanism(1.0, 0.5, updates=1), quiet)
    to, fro = (fold(rule, begun, [Update(np.full(4, x, np.float32), 1)]).weights for x in (9, -9))
    assert np.linalg.norm(to - fro) == pytest.approx(1.0)


def test_examples_and_losses_that_phones_report_change_nothing() -> None:
    begun, updates = cohort(3, 6, 20)
    rule = PrivateMean(FedAvg(), Mechanism(1.0, 1.0, updates=6), quiet)
    claimed = [Update(u.weights, 10**6 * i + 1, loss={}) for i, u in enumerate(updates)]
    assert np.array_equal(fold(rule, begun, updates).weights, fold(rule, begun, claimed).weights)


@settings(deadline=None, max_examples=30)
@given(cut=st.integers(0, 8), **CASES)
def test_a_tree_of_folds_equals_the_flat_fold(
    cut: int, seed: int, phones: int, size: int, clip: float
) -> None:
    begun, updates = cohort(seed, phones, size)
    rule = PrivateMean(FedAvg(), Mechanism(1.0, clip, updates=5), quiet)
    parts = [rule.start(begun), rule.start(begun)]
    for i, update in enumerate(updates):
        parts[i >= cut] = rule.add(parts[i >= cut], update)
    merged = rule.merge(*parts)
    assert np.allclose(rule.finish(merged).weights, fold(rule, begun, updates).weights, rtol=1e-6, atol=1e-6)
    assert merged.centred == pytest.approx(
        sum(0.5 if np.linalg.norm(u.weights.astype(float) - begun.weights) <= clip else -0.5 for u in updates)
    )


def test_folds_of_different_weights_do_not_merge() -> None:
    rule = PrivateMean(FedAvg(), Mechanism(1.0, 1.0, 1), quiet)
    one, other = (rule.start(begun_with(np.full(4, x, np.float32))) for x in (0, 1))
    with pytest.raises(ValueError, match="cannot be merged"):
        rule.merge(one, other)


@pytest.mark.parametrize("adaptive", [None, AdaptiveClip(0.5, 0.2, noise=0.9)])
def test_the_noise_has_the_scale_that_the_accountant_is_told(adaptive: AdaptiveClip | None) -> None:
    size, mechanism = 40_000, Mechanism(1.5, 0.3, updates=7, adaptive=adaptive)
    begun = begun_with(np.zeros(size, np.float32))
    noise = fold(PrivateMean(FedAvg(), mechanism, seeded(1)), begun, []).weights.astype(np.float64)
    scale = 1.5 if adaptive is None else (1.5**-2 - 1.8**-2) ** -0.5
    deviation = scale * 0.3 / 7
    assert np.std(noise) == pytest.approx(deviation, rel=0.02)  # 4.5 standard errors
    assert abs(np.mean(noise)) < 5 * deviation / math.sqrt(size)


def test_noise_of_the_system_is_standard_normal(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not np.array_equal(system_normals(9), system_normals(9))
    assert [len(system_normals(count)) for count in (0, 1, 2, 7)] == [0, 1, 2, 7]
    rng = np.random.default_rng(0)  # so that this test always comes out the same
    monkeypatch.setattr(os, "urandom", rng.bytes)
    count = 20_000
    drawn = system_normals(count)
    share = np.array([NormalDist().cdf(x) for x in np.sort(drawn)])
    furthest = np.abs(share - (np.arange(count) + 0.5) / count).max()
    assert furthest < 1.95 / math.sqrt(count), "Kolmogorov and Smirnov, at the level of 0.1 %"
    assert abs(np.corrcoef(drawn[: count // 2], drawn[count // 2 :])[0, 1]) < 0.03
    monkeypatch.setattr(os, "urandom", lambda count: b"\x00" * count)
    assert np.isfinite(system_normals(4)).all()
    monkeypatch.setattr(os, "urandom", lambda count: b"\xff" * count)
    assert np.isfinite(system_normals(4)).all()


def test_the_norm_settles_at_the_quantile_of_the_updates_norms() -> None:
    """A synthetic population whose norms are log-normal, each round a cohort of 100 of it."""
    rng = np.random.default_rng(0)
    for quantile in (0.2, 0.5, 0.8):
        mechanism = Mechanism(1.0, 100.0, updates=100, adaptive=AdaptiveClip(quantile, 0.3, noise=5.0))
        rule, memory, norms = (
            PrivateMean(FedAvg(), mechanism, seeded(2)),
            dict[str, NDArray[np.float32]](),
            [],
        )
        for _ in range(120):
            begun = begun_with(np.zeros(2, np.float32), memory)
            lengths = np.exp(0.5 * rng.standard_normal(100))
            updates = [Update(np.array([length, 0], np.float32), 1) for length in lengths]
            memory = dict(fold(rule, begun, updates).memory)
            norms.append(float(memory[CLIP][0]))
        settled = float(np.exp(np.mean(np.log(norms[60:]))))
        assert settled == pytest.approx(math.exp(0.5 * NormalDist().inv_cdf(quantile)), rel=0.1)


@settings(deadline=None, max_examples=60)
@given(z=st.floats(0.1, 10), quieter=st.floats(1.01, 30), **CASES)
def test_one_phone_moves_weights_and_count_together_by_what_the_accountant_is_told(
    seed: int, phones: int, size: int, clip: float, z: float, quieter: float
) -> None:
    """In units of the noise on each: 1 / z for answers that add nothing in its place, 2 / z for another phone's."""
    begun, updates = cohort(seed, phones, size)
    mechanism = Mechanism(z, clip, 5, AdaptiveClip(0.5, 0.2, noise=quieter * z / 2))
    rule = PrivateMean(FedAvg(), mechanism, quiet)

    def moved(one: list[Update], other: list[Update]) -> float:
        states = [functools.reduce(rule.add, u, rule.start(begun)) for u in (one, other)]
        weights = np.linalg.norm(states[0].total - states[1].total) / (mechanism.weights_multiplier * clip)
        count = abs(states[0].centred - states[1].centred) / (quieter * z / 2)
        return math.hypot(weights, count)

    opposite = Update((begun.weights - 7 * (updates[0].weights - begun.weights)).astype(np.float32), 1)
    idle = Update(begun.weights, 1)
    for update in (updates[0], opposite, idle):
        assert moved([update, *updates[1:]], updates[1:]) <= (1 + 1e-9) / z
        assert moved([update, *updates[1:]], updates) <= 2 * (1 + 1e-9) / z


def test_that_is_what_it_can_indeed_move() -> None:
    begun, adaptive = begun_with(np.zeros(4, np.float32)), AdaptiveClip(0.5, 0.2, noise=2.0)
    mechanism = Mechanism(1.1, 1.0, 10, adaptive)
    rule = PrivateMean(FedAvg(), mechanism, quiet)
    for change, centred in ((0.5, 0.5), (9, -0.5)):  # on the norm, and far beyond it
        state = rule.add(rule.start(begun), Update(np.full(4, change, np.float32), 1))
        weights = np.linalg.norm(state.total) / mechanism.weights_multiplier
        assert state.centred == centred
        assert np.linalg.norm(state.total) == pytest.approx(1.0)
        assert math.hypot(weights, centred / 2.0) == pytest.approx(1 / 1.1)


def test_a_discount_shortens_what_a_phone_contributes() -> None:
    begun = begun_with(np.zeros(4, np.float32))
    rule = PrivateMean(FedAvg(), Mechanism(1.0, 1.0, 1), quiet)
    for change, length in ((0.25, 0.5), (9, 1.0)):
        update = Update(np.full(4, change, np.float32), 1, discount=0.25)
        assert np.linalg.norm(rule.add(rule.start(begun), update).total) == pytest.approx(0.25 * length)


def test_a_variance_stays_one() -> None:
    layout = Layout(
        (
            Slice("backbone.bn.running_mean", (50,), Role.BUFFER, 0),
            Slice("backbone.bn.running_var", (50,), Role.BUFFER, 50),
        )
    )
    begun = Broadcast(np.zeros(100, np.float32), layout, 1)
    weights = fold(PrivateMean(FedAvg(), Mechanism(1, 1, 1), seeded(0)), begun, []).weights
    assert weights[:50].min() < 0
    assert weights[50:].min() == 0


OPTIMISERS = ("fedavgm", "fedadagrad", "fedyogi", "fedadam")


def test_only_rules_that_the_norm_bounds_can_be_private() -> None:
    private = {name for name in AGGREGATORS if refusal(build_aggregator(name)) is None}
    assert private == {"fedavg", *OPTIMISERS}
    for rule in (LDawa(), *(build_aggregator(name, {"over": "ldawa"}) for name in OPTIMISERS)):
        reason = refusal(rule)
        assert reason is not None
        assert "LDawa looks at each update" in reason


@pytest.mark.parametrize("name", OPTIMISERS)
def test_a_server_optimiser_steps_by_the_noisy_mean_and_sees_nothing_else(name: str) -> None:
    """Over two rounds, in which its memory and the clipping norm are kept side by side."""
    begun, updates = cohort(1, 5, 10)
    mechanism = Mechanism(1.0, 1.0, 5, AdaptiveClip(0.5, 0.2, 0.6))
    rule = build_aggregator(name)
    private, expected = GlobalModel(begun.weights), GlobalModel(begun.weights)
    for number in (1, 2):
        now = Broadcast(private.weights, begun.layout, number, private.memory)
        noisy = fold(PrivateMean(FedAvg(), mechanism, seeded(number)), now, updates)
        private = fold(PrivateMean(rule, mechanism, seeded(number)), now, updates)
        alone = rule.start(Broadcast(expected.weights, begun.layout, number, expected.memory))
        expected = rule.finish(rule.add(alone, Update(noisy.weights, 1)))
        assert np.array_equal(private.weights, expected.weights)
        assert number == 1 or not np.allclose(private.weights, noisy.weights)
        assert private.memory.keys() == {*expected.memory, CLIP}
        assert all(np.array_equal(private.memory[key], kept) for key, kept in expected.memory.items())

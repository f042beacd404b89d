"""Every rule against an independent formula in float64, and the properties that a fake would fail."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pocketfed.core.errors import ConfigError
from pocketfed.core.layout import Layout, Role, Slice
from pocketfed.core.plan import Update
from pocketfed.server.aggregators import (
    AGGREGATORS,
    Aggregator,
    Broadcast,
    FedAvg,
    LDawa,
    build_aggregator,
    register,
)

Vector = NDArray[np.float32]


def layout_of(sizes: list[int]) -> Layout:
    offsets = np.cumsum([0, *sizes])
    return Layout(
        tuple(Slice(f"backbone.{i}", (n,), Role.BACKBONE, int(offsets[i])) for i, n in enumerate(sizes))
    )


def fold(rule: Aggregator[Any], begun: Broadcast, updates: list[Update]) -> Vector:
    state = rule.start(begun)
    for update in updates:
        state = rule.add(state, update)
    return rule.finish(state).weights


def tree(rule: Aggregator[Any], begun: Broadcast, updates: list[Update], cut: int) -> Vector:
    parts = []
    for part in (updates[:cut], updates[cut:]):
        state = rule.start(begun)
        for update in part:
            state = rule.add(state, update)
        parts.append(state)
    return rule.finish(rule.merge(*parts)).weights


def random_case(
    seed: int, sizes: list[int], phones: int, round_number: int
) -> tuple[Broadcast, list[Update]]:
    rng = np.random.default_rng(seed)
    layout = layout_of(sizes)
    begun = Broadcast(rng.standard_normal(layout.size).astype(np.float32), layout, round_number)
    updates = [
        Update(
            (begun.weights + rng.standard_normal(layout.size)).astype(np.float32), int(rng.integers(1, 500))
        )
        for _ in range(phones)
    ]
    return begun, updates


def oracle(name: str, begun: Broadcast, updates: list[Update]) -> NDArray[np.float64]:
    """Plain loops over phones and layers, in float64."""
    if name == "fedavg" or begun.round <= 3:
        counts = [u.examples for u in updates]
        return sum(n / sum(counts) * u.weights.astype(float) for n, u in zip(counts, updates, strict=True))  # type: ignore[return-value]
    result = np.zeros(begun.layout.size)
    for part in begun.layout.slices:
        span = slice(part.offset, part.offset + part.size)
        g = begun.weights[span].astype(float)
        cosines = []
        for update in updates:
            w = update.weights[span].astype(float)
            cosines.append(min(1.0, float((w * g).sum() / np.sqrt((w * w).sum() * (g * g).sum()))))
            result[span] += cosines[-1] * w
        if name == "ldawa":
            result[span] /= len(updates)
        elif sum(cosines) < 1e-3 * len(updates):
            result[span] = g
        else:
            result[span] /= sum(cosines)
    return result


CASES = {
    "seed": st.integers(0, 10_000),
    "sizes": st.lists(st.integers(1, 20), min_size=1, max_size=5),
    "phones": st.integers(1, 8),
    "round_number": st.integers(1, 6),
}


@pytest.mark.parametrize("name", sorted(AGGREGATORS))
@settings(deadline=None, max_examples=60)
@given(**CASES)
def test_equals_the_formula(name: str, seed: int, sizes: list[int], phones: int, round_number: int) -> None:
    begun, updates = random_case(seed, sizes, phones, round_number)
    expected = oracle(name, begun, updates)
    assert np.allclose(fold(build_aggregator(name), begun, updates), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", sorted(AGGREGATORS))
@settings(deadline=None, max_examples=40)
@given(cut=st.integers(0, 8), **CASES)
def test_a_tree_of_folds_and_any_order_equal_the_flat_fold(
    name: str, cut: int, seed: int, sizes: list[int], phones: int, round_number: int
) -> None:
    begun, updates = random_case(seed, sizes, phones, round_number)
    flat = fold(build_aggregator(name), begun, updates)
    assert np.allclose(flat, tree(build_aggregator(name), begun, updates, cut), rtol=1e-6, atol=1e-6)
    shuffled = [updates[i] for i in np.random.default_rng(seed).permutation(phones)]
    assert np.allclose(flat, fold(build_aggregator(name), begun, shuffled), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", sorted(AGGREGATORS))
def test_no_update_leaves_the_weights(name: str) -> None:
    begun, _ = random_case(0, [3, 4], 1, 5)
    assert np.array_equal(fold(build_aggregator(name), begun, []), begun.weights)


@given(**CASES)
def test_fedavg_stays_between_its_phones(seed: int, sizes: list[int], phones: int, round_number: int) -> None:
    begun, updates = random_case(seed, sizes, phones, round_number)
    result = fold(FedAvg(), begun, updates)
    weights = np.stack([u.weights for u in updates])
    assert (result >= weights.min(0) - 1e-5).all()
    assert (result <= weights.max(0) + 1e-5).all()


class TestLDawa:
    """The properties in notes on the paper; a plain FedAvg fails each of them."""

    def case(self) -> tuple[Broadcast, Vector]:
        rng = np.random.default_rng(1)
        begun = Broadcast(rng.standard_normal(30).astype(np.float32), layout_of([10, 20]), 4)
        return begun, (begun.weights + rng.standard_normal(30)).astype(np.float32)

    def test_phones_equal_to_the_global_model_are_a_fixed_point(self) -> None:
        begun, _ = self.case()
        assert np.allclose(
            fold(LDawa(), begun, [Update(begun.weights, n) for n in (1, 9)]), begun.weights, atol=1e-6
        )

    def test_identical_phones_give_their_weights_shrunk_by_the_cosine(self) -> None:
        begun, w = self.case()
        result = fold(LDawa(), begun, [Update(w, 3), Update(w, 7)])
        for part in begun.layout.slices:
            span = slice(part.offset, part.offset + part.size)
            cosine = (
                w[span] @ begun.weights[span] / np.linalg.norm(w[span]) / np.linalg.norm(begun.weights[span])
            )
            assert cosine < 0.95
            assert np.allclose(result[span], cosine * w[span], atol=1e-5)

    def test_normalised_identical_phones_give_their_weights(self) -> None:
        begun, w = self.case()
        assert np.allclose(fold(LDawa(normalise=True), begun, [Update(w, 3), Update(w, 7)]), w, atol=1e-5)

    def test_layers_are_independent(self) -> None:
        begun, w = self.case()
        other = w.copy()
        other[:10] *= -3
        a, b = (fold(LDawa(), begun, [Update(v, 1), Update(begun.weights, 1)]) for v in (w, other))
        assert np.array_equal(a[10:], b[10:])
        assert not np.allclose(a[:10], b[:10])

    def test_an_orthogonal_phone_contributes_nothing_and_an_opposite_one_the_global_model(self) -> None:
        layout = layout_of([2])
        begun = Broadcast(np.array([1, 0], dtype=np.float32), layout, 4)
        orthogonal = Update(np.array([0, 5], dtype=np.float32), 1)
        assert np.allclose(fold(LDawa(), begun, [orthogonal]), 0)
        assert np.allclose(fold(LDawa(), begun, [Update(-begun.weights, 1)]), begun.weights)

    def test_examples_count_during_the_warm_up_only(self) -> None:
        begun, w = self.case()
        few, many = ([Update(w, 1), Update(begun.weights, n)] for n in (1, 99))
        assert np.array_equal(fold(LDawa(), begun, few), fold(LDawa(), begun, many))
        early = Broadcast(begun.weights, begun.layout, 3)
        assert not np.allclose(fold(LDawa(), early, few), fold(LDawa(), early, many))
        assert np.array_equal(fold(LDawa(), early, many), fold(FedAvg(), early, many))

    @pytest.mark.parametrize("normalise", [False, True])
    def test_layers_of_zeros_stay_finite(self, normalise: bool) -> None:
        begun = Broadcast(np.zeros(4, dtype=np.float32), layout_of([4]), 9)
        w = np.ones(4, dtype=np.float32)
        assert np.array_equal(fold(LDawa(normalise=normalise), begun, [Update(w, 1)]), w)


def test_folds_of_different_rounds_do_not_merge() -> None:
    begun, _ = random_case(0, [3], 1, 1)
    later = Broadcast(begun.weights, begun.layout, 2)
    with pytest.raises(ValueError, match="cannot be merged"):
        FedAvg().merge(FedAvg().start(begun), FedAvg().start(later))


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="fedavg, ldawa"):
        build_aggregator("mode")


def test_settings_are_checked_all_at_once() -> None:
    assert build_aggregator("ldawa", {"warmup": 0}) == LDawa(warmup=0)
    assert build_aggregator("ldawa-normalised") == LDawa(normalise=True)
    with pytest.raises(ConfigError) as caught:
        build_aggregator("ldawa", {"warmup": -1, "normalise": "perhaps", "alpha": 1})
    assert [problem.partition(":")[0] for problem in caught.value.problems] == [
        "alpha",
        "warmup",
        "normalise",
    ]
    assert "it has: normalise, warmup" in caught.value.problems[0]
    assert "(got -1)" in caught.value.problems[1]


def test_what_is_registered_is_a_dataclass() -> None:
    with pytest.raises(TypeError, match="no dataclass"):
        register("odd", lambda: FedAvg())

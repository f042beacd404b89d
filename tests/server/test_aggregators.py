"""Every rule against an independent formula in float64, and the properties that a fake would fail."""

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from pocketfed.core.errors import ConfigError
from pocketfed.core.layout import Role
from pocketfed.core.plan import Update
from pocketfed.server.aggregators import (
    AGGREGATORS,
    Broadcast,
    FedAvg,
    LDawa,
    ServerOptimiser,
    Sums,
    build_aggregator,
    discounts_late,
    register,
)
from tests.server.rule_cases import CASES, Oracle, Vector, backbone, buffers, layout_of, random_case, tree
from tests.server.rule_cases import fold as whole_fold

AVERAGES = ["fedavg", "median", "trimmed-mean", "krum", "multi-krum"]
"""Rules whose result lies between the phones' weights; FedVSSL's does if the model before is counted as one."""

Parts = list[tuple[Role, int]]


def fold(*arguments: Any) -> Vector:
    return whole_fold(*arguments).weights


@pytest.mark.parametrize("name", sorted(AGGREGATORS))
@settings(deadline=None, max_examples=40)
@given(**CASES)
def test_equals_the_formula(name: str, seed: int, parts: Parts, phones: int, round_number: int) -> None:
    begun, updates = random_case(seed, parts, phones, round_number)
    expected = Oracle(name)(begun, updates)
    assert np.allclose(fold(build_aggregator(name), begun, updates), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", sorted(AGGREGATORS))
@settings(deadline=None, max_examples=15)
@given(seed=CASES["seed"], parts=CASES["parts"], phones=st.integers(5, 8))
def test_equals_the_formula_over_rounds_memory_included(
    name: str, seed: int, parts: Parts, phones: int
) -> None:
    rule, oracle = build_aggregator(name), Oracle(name)
    begun, _ = random_case(seed, parts, phones, 1)
    for number in range(1, 6):
        _, updates = random_case(seed + number, parts, phones, number)
        expected = oracle(begun, updates)
        model = whole_fold(rule, begun, updates)
        assert np.allclose(model.weights, expected, rtol=1e-4, atol=1e-4)
        for kept, moment in zip(model.memory.values(), (oracle.momentum, oracle.second), strict=False):
            assert kept.dtype == np.float32
            assert moment is not None
            assert np.allclose(kept, moment[~buffers(begun.layout)], rtol=1e-4, atol=1e-4)
        begun = Broadcast(model.weights, begun.layout, number + 1, model.memory)


@pytest.mark.parametrize("name", sorted(AGGREGATORS))
@settings(deadline=None, max_examples=30)
@given(cuts=st.tuples(st.integers(0, 8), st.integers(0, 8)), **CASES)
def test_a_tree_of_folds_and_any_order_equal_the_flat_fold(
    name: str, cuts: tuple[int, int], seed: int, parts: Parts, phones: int, round_number: int
) -> None:
    begun, updates = random_case(seed, parts, phones, round_number)
    rule = build_aggregator(name)
    flat = fold(rule, begun, updates)
    assert np.allclose(flat, tree(rule, begun, updates, cuts).weights, rtol=1e-6, atol=1e-6)
    shuffled = [updates[i] for i in np.random.default_rng(seed).permutation(phones)]
    assert np.allclose(flat, fold(rule, begun, shuffled), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", sorted(AGGREGATORS))
def test_no_update_leaves_the_weights_and_the_memory(name: str) -> None:
    rule = build_aggregator(name)
    begun, updates = random_case(0, [(Role.BACKBONE, 3), (Role.BUFFER, 4)], 5, 5)
    after = whole_fold(rule, begun, updates)
    again = Broadcast(after.weights, begun.layout, 6, after.memory)
    idle = whole_fold(rule, again, [])
    assert np.array_equal(idle.weights, after.weights)
    assert idle.memory.keys() == after.memory.keys()
    assert all(np.array_equal(idle.memory[key], after.memory[key]) for key in after.memory)


@pytest.mark.parametrize("name", AVERAGES)
@settings(deadline=None, max_examples=20)
@given(**CASES)
def test_averages_stay_between_their_phones(
    name: str, seed: int, parts: Parts, phones: int, round_number: int
) -> None:
    begun, updates = random_case(seed, parts, phones, round_number)
    assume("krum" not in name or phones >= 5)
    result = fold(build_aggregator(name), begun, updates)
    weights = np.stack([u.weights for u in updates])
    assert (result >= weights.min(0) - 1e-5).all()
    assert (result <= weights.max(0) + 1e-5).all()


@pytest.mark.parametrize("name", sorted(AGGREGATORS))
def test_running_statistics_stay_positive(name: str) -> None:
    """A variance below zero has no root; moments would carry it there when it falls for several rounds."""
    layout = layout_of([(Role.BACKBONE, 2), (Role.BUFFER, 3)])
    rule, begun = build_aggregator(name), Broadcast(np.ones(5, np.float32), layout, 1)
    for number in range(1, 12):
        model = whole_fold(rule, begun, [Update(0.5 * begun.weights, n) for n in range(1, 6)])
        assert (model.weights[2:] > 0).all()
        begun = Broadcast(model.weights, layout, number + 1, model.memory)


def test_which_rules_are_sums() -> None:
    begun, _ = random_case(0, [(Role.BACKBONE, 3)], 1, 1)
    sums = {name for name in AGGREGATORS if isinstance(build_aggregator(name).start(begun), Sums)}
    assert sums >= {"fedavg", "ldawa", "fedvssl", "fedavgm", "fedadam", "fedyogi", "fedadagrad"}
    assert not sums & {"median", "trimmed-mean", "krum", "multi-krum"}
    over = build_aggregator("fedadam", {"over": "median"})
    assert not isinstance(over.start(begun), Sums)


class TestLDawa:
    """The properties in notes on the paper; a plain FedAvg fails each of them."""

    def case(self) -> tuple[Broadcast, Vector]:
        rng = np.random.default_rng(1)
        begun = Broadcast(rng.standard_normal(30).astype(np.float32), backbone(10, 20), 4)
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
        begun, far = self.case()
        w = ((begun.weights + far) / 2).astype(np.float32)
        assert np.allclose(fold(LDawa(normalise=True), begun, [Update(w, 3), Update(w, 7)]), w, atol=1e-5)

    def test_normalised_phones_that_go_far_off_are_shrunk_as_by_twice_the_cosine(self) -> None:
        begun = Broadcast(np.array([1, 0], dtype=np.float32), backbone(2), 4)
        w = np.array([3, 4], dtype=np.float32) * np.float32(0.2)
        assert np.allclose(fold(LDawa(normalise=True), begun, [Update(w, 1)]), w)  # its cosine is 0.6
        far = np.array([1, -5], dtype=np.float32)
        assert np.allclose(
            fold(LDawa(normalise=True), begun, [Update(far, 1)]), far / 0.5 / 26**0.5, atol=1e-6
        )

    def test_layers_are_independent(self) -> None:
        begun, w = self.case()
        other = w.copy()
        other[:10] *= -3
        a, b = (fold(LDawa(), begun, [Update(v, 1), Update(begun.weights, 1)]) for v in (w, other))
        assert np.array_equal(a[10:], b[10:])
        assert not np.allclose(a[:10], b[:10])

    def test_an_orthogonal_phone_contributes_nothing_and_an_opposite_one_the_global_model(self) -> None:
        layout = backbone(2)
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
        begun = Broadcast(np.zeros(4, dtype=np.float32), backbone(4), 9)
        w = np.ones(4, dtype=np.float32)
        assert np.array_equal(fold(LDawa(normalise=normalise), begun, [Update(w, 1)]), w)


def test_folds_of_different_rounds_do_not_merge() -> None:
    begun, _ = random_case(0, [(Role.BACKBONE, 3)], 1, 1)
    later = Broadcast(begun.weights, begun.layout, 2)
    with pytest.raises(ValueError, match="cannot be merged"):
        FedAvg().merge(FedAvg().start(begun), FedAvg().start(later))


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="fedavg, fedavgm, fedvssl, fedyogi, krum, ldawa"):
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


@pytest.mark.parametrize("over", [None, "median", "ldawa"])
@pytest.mark.parametrize("name", sorted(AGGREGATORS))
def test_a_rule_says_whether_late_updates_count_less(name: str, over: str | None) -> None:
    """A configuration goes by what it says, so a rule that ignores discounts must not be silent about it."""
    optimiser = isinstance(build_aggregator(name), ServerOptimiser)
    rule = build_aggregator(name, {"over": over} if over and optimiser else {})
    begun, updates = random_case(0, [(Role.BACKBONE, 20), (Role.BUFFER, 5)], 7, 5)
    prompt = [dataclasses.replace(update, discount=1.0) for update in updates]
    late = [dataclasses.replace(prompt[0], discount=0.1), *prompt[1:]]
    changed = not np.array_equal(fold(rule, begun, prompt), fold(rule, begun, late))
    assert discounts_late(rule) is changed


def test_a_rule_of_ones_own_is_believed_and_may_say_that_it_discounts_nothing() -> None:
    @dataclasses.dataclass(frozen=True)
    class Plain(FedAvg):
        discounts_late = False

    assert discounts_late(FedAvg())
    assert not discounts_late(Plain())

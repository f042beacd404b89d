"""What the papers claim of their rules, and where ours agree with Flower's own strategies."""

import functools
import logging
import math
from typing import Any, cast

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp import strategy as flower
from hypothesis import given, settings
from hypothesis import strategies as st

from pocketfed.core.errors import ConfigError, UpdateRejected
from pocketfed.core.layout import Role
from pocketfed.core.modality import Modality
from pocketfed.core.plan import Update
from pocketfed.server.aggregators import (
    Broadcast,
    CoordinateMedian,
    FedAdagrad,
    FedAdam,
    FedAvg,
    FedAvgM,
    FedVssl,
    FedYogi,
    Krum,
    LDawa,
    Memory,
    TrimmedMean,
    build_aggregator,
    room_of,
)
from pocketfed.server.aggregators.fedvssl import HIGHEST, mean_loss
from pocketfed.server.flower_private import act_as_server
from pocketfed.server.guard import Guard
from tests.server.rule_cases import CASES, Vector, backbone, fold, layout_of, random_case


def vector(*values: float) -> Vector:
    return np.array(values, np.float32)


def told(weights: Vector, loss: float, examples: int = 1) -> Update:
    """An update of a phone with photos only."""
    return Update(weights, examples, {Modality.PHOTO: examples}, {Modality.PHOTO: loss})


class TestFedVssl:
    """Section 9 of the paper's repository, and traps of a public baseline that fails them."""

    @settings(deadline=None, max_examples=20)
    @given(**CASES)
    def test_without_alpha_and_beta_it_is_fedavg(self, **case: Any) -> None:
        begun, updates = random_case(**case)
        mine, theirs = (fold(rule, begun, updates).weights for rule in (FedVssl(0.0, 0), FedAvg()))
        assert np.allclose(mine, theirs, atol=1e-6)

    def test_with_alpha_1_only_losses_count(self) -> None:
        begun = Broadcast(vector(0), backbone(1), 1)
        updates = [told(vector(1), 1.0, 99), told(vector(2), 3.0, 1)]
        e1, e2 = np.exp(-1.0), np.exp(-3.0)
        assert fold(FedVssl(1.0, 0), begun, updates).weights == pytest.approx((e1 + 2 * e2) / (e1 + e2), 1e-6)

    def test_with_equal_losses_and_counts_alpha_does_not_matter(self) -> None:
        begun = Broadcast(vector(0, 0), backbone(2), 1)
        updates = [told(vector(1, 5), 2.0), told(vector(2, -5), 2.0)]
        for alpha in (0.0, 0.4, 1.0):
            assert np.allclose(fold(FedVssl(alpha, 0), begun, updates).weights, [1.5, 0], atol=1e-6)

    @settings(deadline=None, max_examples=20)
    @given(alpha=st.floats(0, 1), **CASES)
    def test_it_stays_between_its_phones(self, alpha: float, **case: Any) -> None:
        begun, updates = random_case(**case)
        weights = np.stack([u.weights for u in updates])
        result = fold(FedVssl(alpha, 0), begun, updates).weights
        assert (result >= weights.min(0) - 1e-5).all()
        assert (result <= weights.max(0) + 1e-5).all()

    def test_beta_halves_every_older_model_from_the_second_round_on(self) -> None:
        weights, rule = vector(8), FedVssl(beta=1)
        seen = []
        for number, phones in enumerate((1.0, 2.0, 4.0), 1):
            begun = Broadcast(weights, backbone(1), number)
            weights = fold(rule, begun, [told(vector(phones), 1.0)]).weights
            seen.append(float(weights[0]))
        assert seen == [1.0, 1.5, 2.75]  # 1; 2/2 + 1/2; 4/2 + 2/4 + 1/4

    def test_the_loss_is_the_mean_over_captures(self) -> None:
        losses, seen = {Modality.PHOTO: 1.0, Modality.SOUND: 4.0}, {Modality.PHOTO: 30, Modality.SOUND: 10}
        assert mean_loss(Update(vector(0), 40, seen, losses)) == 1.75
        assert mean_loss(Update(vector(0), 40, seen, {Modality.SOUND: 4.0})) == 4.0

    @pytest.mark.parametrize("loss", [-1e4, 1e4])
    def test_no_claim_of_a_loss_makes_it_overflow(self, loss: float) -> None:
        begun = Broadcast(vector(0), backbone(1), 1)
        for updates in ([told(vector(3), loss)], [told(vector(3), loss), told(vector(3), 2.0)]):
            assert fold(FedVssl(), begun, updates).weights == pytest.approx(3)
        assert mean_loss(Update(vector(3), 5)) == HIGHEST
        assert fold(FedVssl(), begun, [Update(vector(3), 5)]).weights == pytest.approx(3)


def replies(updates: list[Vector], counts: list[int]) -> list[Message]:
    """What Flower's strategies get from phones."""
    return [
        Message(
            RecordDict(
                {"arrays": ArrayRecord({"w": Array(w)}), "metrics": MetricRecord({"num-examples": n})}
            ),
            dst_node_id=k,
            message_type=MessageType.TRAIN,
        )
        for k, (w, n) in enumerate(zip(updates, counts, strict=True), 1)
    ]


class TestFlowersServerOptimisers:
    """The same moments and weights as Flower's strategies over five rounds, where these begin as ours are told to."""

    @pytest.mark.parametrize(
        ("theirs", "ours"),
        [
            (flower.FedAvgM(server_learning_rate=0.5, server_momentum=0.7), FedAvgM(learning_rate=0.5, momentum=0.7)),
            (flower.FedYogi(eta=0.02, beta_1=0.8, beta_2=0.95, tau=0.01),
             FedYogi(learning_rate=0.02, momentum=0.8, second_momentum=0.95, tau=0.01, second=0.0)),
            (flower.FedAdagrad(eta=0.02, tau=0.01), FedAdagrad(learning_rate=0.02, tau=0.01, second=0.0)),
            (flower.FedAdam(eta=0.02, beta_1=0.8, beta_2=0.95, tau=0.01), None),
        ],
    )  # fmt: skip
    def test_agree(self, theirs: Any, ours: Any) -> None:
        rng = np.random.default_rng(0)
        weights = rng.standard_normal(30).astype(np.float32)
        arrays, memory = ArrayRecord({"w": Array(weights)}), cast(Memory, {})
        act_as_server(1)  # without which Flower makes no messages
        for number in range(1, 6):
            rule = ours
            if (
                rule is None
            ):  # Flower corrects the learning rate of FedAdam for bias, and counts rounds from 2 there
                eta = 0.02 * np.sqrt(1 - 0.95 ** (number + 1)) / (1 - 0.8 ** (number + 1))
                rule = FedAdam(learning_rate=eta, momentum=0.8, second_momentum=0.95, tau=0.01, second=0.0)
            sent = [(weights + rng.standard_normal(30)).astype(np.float32) for _ in range(4)]
            counts = [int(n) for n in rng.integers(1, 100, 4)]
            list(theirs.configure_train(number, arrays, ConfigRecord(), _Nobody()))
            arrays, _ = theirs.aggregate_train(number, replies(sent, counts))
            begun = Broadcast(weights, backbone(10, 20), number, memory)
            model = fold(rule, begun, [Update(w, n) for w, n in zip(sent, counts, strict=True)])
            assert np.allclose(model.weights, arrays["w"].numpy(), rtol=1e-4, atol=1e-5)
            weights, memory = model.weights, model.memory
        averaged = isinstance(theirs, flower.FedAvgM)
        moments: list[Any] = [theirs.momentum_vector] if averaged else [theirs.m_t, theirs.v_t]
        for kept, moment in zip(memory.values(), moments, strict=True):
            other = moment["w"] if isinstance(moment, dict) else moment[0]
            # FedAvgM's pseudo-gradient has the other sign there.
            assert np.allclose(np.abs(kept), np.abs(other), rtol=1e-4, atol=1e-5)


class _Nobody:
    """As much of a grid as choosing phones takes."""

    def get_node_ids(self) -> list[int]:
        return [1, 2, 3, 4]


class TestServerOptimisers:
    def test_momentum_1_step_is_fedavg(self) -> None:
        begun, updates = random_case(3, [(Role.BACKBONE, 9), (Role.BUFFER, 3)], 4, 1)
        mine, theirs = (fold(rule, begun, updates).weights for rule in (FedAvgM(momentum=0.0), FedAvg()))
        assert np.allclose(mine, theirs, atol=1e-6)

    def test_running_statistics_are_averaged_and_have_no_moments(self) -> None:
        begun, updates = random_case(1, [(Role.BUFFER, 4), (Role.PROJECTOR, 5), (Role.BUFFER, 2)], 3, 1)
        model, mean = (fold(rule, begun, updates) for rule in (FedAdam(), FedAvg()))
        assert np.array_equal(model.weights[:4], mean.weights[:4])
        assert np.array_equal(model.weights[9:], mean.weights[9:])
        assert {kept.shape for kept in model.memory.values()} == {(5,)}

    def test_they_go_over_any_rule_that_is_none_of_them(self) -> None:
        begun, updates = random_case(2, [(Role.BACKBONE, 7)], 5, 5)
        rule = build_aggregator(
            "fedavgm", {"over": "ldawa", "over_settings": {"warmup": 2}, "learning_rate": 2.0}
        )
        direction = fold(LDawa(warmup=2), begun, updates).weights - begun.weights
        assert np.allclose(fold(rule, begun, updates).weights, begun.weights + 2 * direction, atol=1e-5)
        with pytest.raises(ConfigError, match="over: fedyogi is a server optimiser itself"):
            FedAdam(over="fedyogi")
        with pytest.raises(ConfigError, match="over: there is no aggregator named 'mode'"):
            build_aggregator("fedadam", {"over": "mode"})
        with pytest.raises(ConfigError, match="over: warmup: input should be greater"):
            build_aggregator("fedadam", {"over": "ldawa", "over_settings": {"warmup": -1}})


class TestRobustRules:
    @pytest.mark.parametrize(
        "rule", [CoordinateMedian(), TrimmedMean(trim=0.3), Krum(byzantine=2), Krum(byzantine=2, keep=0)]
    )
    @pytest.mark.parametrize("lie", [1e6, -1e6])
    def test_two_of_seven_that_lie_do_not_move_them_beyond_the_honest(self, rule: Any, lie: float) -> None:
        begun, honest = random_case(5, [(Role.BACKBONE, 6), (Role.BUFFER, 2)], 5, 1)
        liars = [Update(np.full(8, lie, np.float32), 100_000) for _ in range(2)]
        weights = np.stack([u.weights for u in honest])
        result = fold(rule, begun, [liars[0], *honest, liars[1]]).weights
        assert (result >= weights.min(0)).all()
        assert (result <= weights.max(0)).all()
        poisoned = fold(FedAvg(), begun, [*honest, *liars]).weights
        assert (np.abs(poisoned) > 1e5).all()

    def test_krum_is_one_of_the_updates_and_sees_a_lie_in_running_statistics_alone(self) -> None:
        begun, updates = random_case(6, [(Role.BACKBONE, 6), (Role.BUFFER, 2)], 6, 1)
        near = [Update((begun.weights + 0.01 * u.weights).astype(np.float32), 1) for u in updates]
        lie = begun.weights.copy()
        lie[6:] = 1e3
        result = fold(Krum(), begun, [Update(lie, 1), *near]).weights
        assert any(np.array_equal(result, u.weights) for u in near)

    def test_too_few_updates_for_krum_leave_the_weights_and_are_said(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        begun, updates = random_case(7, [(Role.BACKBONE, 3)], 4, 1)
        with caplog.at_level(logging.WARNING):
            assert np.array_equal(fold(Krum(), begun, updates).weights, begun.weights)
        assert "4 updates came, and 5 are needed" in caplog.text
        with pytest.raises(ConfigError, match="the rule needs 5 updates in a round, and this one has 4"):
            room_of(Krum(), begun.layout).check(4)

    @pytest.mark.parametrize("name", ["krum", "multi-krum"])
    def test_too_few_updates_leave_a_server_optimiser_where_it_was(self, name: str) -> None:
        """No result is no direction; one of length 0 would still be a step by what is remembered."""
        rule = FedAvgM(over=name)
        begun, updates = random_case(7, [(Role.BACKBONE, 3), (Role.BUFFER, 2)], 5, 1)
        first = fold(rule, begun, updates)
        assert np.any(first.memory["FedAvgM.momentum"])
        again = Broadcast(first.weights, begun.layout, 2, first.memory)
        second = fold(rule, again, updates[:4])
        assert np.array_equal(second.weights, first.weights)
        assert second.memory == first.memory

    def test_a_trim_above_zero_leaves_something_out_of_the_smallest_round(self) -> None:
        begun = Broadcast(vector(0), backbone(1), 1)
        updates = [Update(vector(v), 1) for v in (1, 2, 99)]
        assert fold(TrimmedMean(trim=0.01), begun, updates).weights == [2]
        assert fold(TrimmedMean(trim=0.0), begun, updates).weights == [34]
        assert fold(TrimmedMean(trim=0.49), begun, updates[:2]).weights == [1.5]

    def test_memory_is_bounded_before_a_round_and_within(self) -> None:
        layout = layout_of([(Role.BACKBONE, 250_000)])  # 1 MB
        rule = CoordinateMedian(memory_mb=3)
        for bounded in (rule, FedAdam(over="median", over_settings={"memory_mb": 3})):
            room = room_of(bounded, layout)
            room.check(3)
            assert room.most == 3
            with pytest.raises(ConfigError, match=r"memory_mb: .*4 of 1.0 MB are 4 MB, more than 3"):
                room.check(4)
        room_of(FedAvg(), layout).check(10**9)
        begun = Broadcast(np.zeros(250_000, np.float32), layout, 1)
        state = functools.reduce(rule.add, [Update(begun.weights, 1)] * 3, rule.start(begun))
        with pytest.raises(UpdateRejected, match="memory_mb"):
            rule.add(state, Update(begun.weights, 1))
        with pytest.raises(UpdateRejected, match="memory_mb"):
            rule.merge(state, state)

    def test_large_stacks_are_worked_on_in_blocks(self) -> None:
        rng = np.random.default_rng(0)
        begun = Broadcast(np.zeros(90_001, np.float32), backbone(90_001), 1)
        updates = [Update(rng.standard_normal(90_001).astype(np.float32), 1) for _ in range(9)]
        stack = np.stack([u.weights for u in updates])
        assert np.allclose(fold(CoordinateMedian(), begun, updates).weights, np.median(stack, axis=0))


@pytest.mark.parametrize("phones", [2, 3, 10])
def test_one_update_that_the_guard_accepts_cannot_make_normalised_ldawa_explode(phones: int) -> None:
    """It points away from all the others, so that cosines add up to as little as it likes, and is as long as it may be."""
    layout, guard = backbone(50), Guard()
    rng = np.random.default_rng(0)
    begun = Broadcast(rng.standard_normal(50).astype(np.float32), layout, 9)
    ahead = begun.weights / begun.norm
    aside = rng.standard_normal(50)
    aside -= (aside @ ahead) * ahead
    aside /= np.linalg.norm(aside)
    rule = build_aggregator("ldawa-normalised")
    for cosine in (-1.0, 1e-3 - 1.0, -0.5, 0.0):
        hostile = 8.9 * begun.norm * (cosine * ahead + math.sqrt(1 - cosine**2) * aside)
        state = rule.start(begun)
        for weights in [begun.weights] * (phones - 1) + [hostile.astype(np.float32)]:
            update = Update(weights, 1, round=9, layout=layout.digest)
            state = rule.add(state, guard.check(update, begun))
        model = rule.finish(state)
        assert np.linalg.norm(model.weights) < 2 * 8.9 * begun.norm
        assert phones == 2 or guard.objection(model.weights, begun) is None


def test_ldawa_scales_running_statistics_too() -> None:
    """As its authors' code does: every tensor, whatever its role; a half-length statistic keeps its direction."""
    layout = layout_of([(Role.BACKBONE, 2), (Role.BUFFER, 2)])
    begun = Broadcast(vector(1, 0, 1, 0), layout, 4)
    result = fold(LDawa(), begun, [Update(vector(1, 0, 1, 1), 1)]).weights
    assert np.allclose(result, [1, 0, np.sqrt(0.5), np.sqrt(0.5)])

"""A tree of folds against the flat fold, through the encoding of the wire; and what a parent refuses."""

import dataclasses
import re
from collections import Counter
from typing import Any

import numpy as np
import pytest
from flwr.app import ConfigRecord, RecordDict
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pocketfed.core.errors import ConfigError
from pocketfed.core.layout import Layout, Role, Slice
from pocketfed.core.modality import Modality
from pocketfed.core.part import Part
from pocketfed.core.plan import Update
from pocketfed.core.wire import FOLD, part_items, read_part
from pocketfed.server.aggregators import (
    AGGREGATORS,
    Aggregator,
    Broadcast,
    FedAvg,
    GlobalModel,
    LDawa,
    build_aggregator,
    check_is_sum,
    factors_of,
    identity,
    sums_of,
)
from pocketfed.server.fold import Fold
from pocketfed.server.messages import pack_update
from pocketfed.server.outcome import Kind
from tests.server.folds import brings, fold_of, folded, message

TWO = Layout((Slice("backbone.a", (3,), Role.BACKBONE, 0), Slice("projector.b", (2,), Role.PROJECTOR, 3)))
BUNDLES = ("a" * 64, "b" * 64)


def layout_of(sizes: list[int]) -> Layout:
    offsets = np.cumsum([0, *sizes])
    return Layout(
        tuple(Slice(f"backbone.{i}", (n,), Role.BACKBONE, int(offsets[i])) for i, n in enumerate(sizes))
    )


def summed_rules() -> list[str]:
    """All registered rules that are sums, whoever registers them."""
    return [name for name in sorted(AGGREGATORS) if sums_of(build_aggregator(name), TWO) is not None]


def honest(rng: np.random.Generator, begun: Broadcast, wildness: float) -> Update:
    """An update that the guard accepts: near, far, turned round, or a multiple, slice by slice."""
    pieces = [
        rng.choice([-1.0, 0.0, 0.5, 1.0]) * g + wildness * np.linalg.norm(g) * rng.standard_normal(len(g))
        for g in begun.layout.parts(begun.weights)
    ]
    weights = np.concatenate(pieces).astype(np.float32)
    far = np.linalg.norm(weights.astype(float) - begun.weights) / np.linalg.norm(begun.weights.astype(float))
    weights = begun.weights + (weights - begun.weights) * np.float32(min(1.0, 9.9 / far if far else 1.0))
    examples = int(rng.integers(1, 500))
    return Update(
        weights.astype(np.float32), examples, {Modality.SOUND: examples},
        {Modality.SOUND: float(rng.standard_normal())}, begun.round, begun.layout.digest,
    )  # fmt: skip


def result(fold: Fold) -> NDArray[np.float32]:
    return fold.outcome(1, 0.0, {}, 0).weights


@pytest.mark.parametrize("name", summed_rules())
@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    sizes=st.lists(st.integers(1, 20), min_size=1, max_size=5),
    owners=st.lists(st.integers(0, 3), min_size=1, max_size=12),
    round_number=st.sampled_from([1, 4, 9]),
    wildness=st.sampled_from([0.0, 0.01, 1.0, 3.0]),
)
def test_a_tree_equals_the_flat_fold(
    name: str, seed: int, sizes: list[int], owners: list[int], round_number: int, wildness: float
) -> None:
    """Owner 0 is the root itself, 1 and 2 are its edges, 3 is an edge of edge 2. Cosines of both signs and of 0 occur."""
    rng, rule = np.random.default_rng(seed), build_aggregator(name)
    layout = layout_of(sizes)
    begun = Broadcast(rng.standard_normal(layout.size).astype(np.float32), layout, round_number)
    updates = [honest(rng, begun, wildness) for _ in owners]
    of = {who: [u for u, owner in zip(updates, owners, strict=True) if owner == who] for who in range(4)}
    third = [folded(rule, begun, of[3]).part()] if of[3] else []
    second = [folded(rule, begun, of[2], third).part()] if of[2] or third else []
    first = [folded(rule, begun, of[1]).part()] if of[1] else []
    root, flat = folded(rule, begun, of[0], first + second), folded(rule, begun, updates)

    assert root.failures == ()  # the guard refuses nothing that is honest
    assert root.updates == flat.updates == len(updates)
    # The two are grouped differently, and within a group sums are of float32: see `sums`.
    scale = max(float(np.abs(update.weights).max()) for update in updates)
    np.testing.assert_allclose(result(root), result(flat), rtol=1e-6, atol=1e-6 * scale)
    tree, whole = root.outcome(1, 0.0, {}, 0), flat.outcome(1, 0.0, {}, 0)
    assert tree.loss[Modality.SOUND] == pytest.approx(whole.loss[Modality.SOUND], rel=1e-9, abs=1e-9)


LDAWA = {"warmup": 5, "normalise": True}


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (("fedavgm", {}), ("fedavgm", {"over": "fedavg", "momentum": 0.9, "learning_rate": 1})),
        (
            ("fedadam", {"over": "ldawa", "over_settings": LDAWA, "tau": 0.1, "momentum": 0.5}),
            ("fedadam", {"momentum": 0.5, "tau": 0.1, "over_settings": dict(reversed(LDAWA.items())), "over": "ldawa"}),
        ),
        (
            ("fedadam", {"over": "ldawa-normalised"}),
            ("fedadam", {"over": "ldawa", "over_settings": {"warmup": 3, "normalise": True}}),
        ),
        (("fedvssl", {}), ("fedvssl", {"beta": 1, "alpha": 0.9})),
    ],
)  # fmt: skip
def test_an_edge_whose_rule_is_the_same_in_other_words_counts(first: Any, second: Any) -> None:
    begun, updates = case()
    fold = fold_of(build_aggregator(*first), begun)
    fold.take(1, brings(folded(build_aggregator(*second), begun, updates).part()), begun.round, edge=True)
    assert fold.failures == ()
    assert fold.updates == len(updates)


def test_rules_that_differ_in_a_setting_differ_in_identity() -> None:
    rules: list[tuple[str, dict[str, Any]]] = [
        ("fedavg", {}), ("fedvssl", {}), ("fedvssl", {"beta": 0}), ("fedavgm", {}), ("fedavgm", {"momentum": 0.8}),
        ("fedadam", {}), ("fedadam", {"second": 0.0}), ("fedyogi", {}), ("fedavgm", {"over": "ldawa"}),
        ("fedavgm", {"over": "ldawa", "over_settings": {"warmup": 2}}), ("ldawa", {}), ("ldawa-normalised", {}),
    ]  # fmt: skip
    assert len({identity(build_aggregator(*rule)) for rule in rules}) == len(rules)


def test_settings_of_a_plugged_rule_have_no_order_where_it_means_nothing() -> None:
    @dataclasses.dataclass(frozen=True)
    class Own(FedAvg):
        table: dict[str, Any]
        names: frozenset[str]
        steps: tuple[int, ...] = (2, 1)

    one, other = {"a": 1, "b": {"c": 2, "d": 3}}, {"b": {"d": 3, "c": 2}, "a": 1}
    assert identity(Own(one, frozenset("xyz"))) == identity(Own(other, frozenset("zyx")))
    assert identity(Own(one, frozenset("xyz"))) == (
        "Own(names={'x', 'y', 'z'}, steps=[2, 1], table={'a': 1, 'b': {'c': 2, 'd': 3}})"
    )
    assert identity(Own(one, frozenset())) != identity(Own(one, frozenset(), (1, 2)))


def test_small_denominators_agree_too() -> None:
    """Two edges whose cosines cancel: the sum that is divided by is a hundredth of theirs."""
    layout, rng = layout_of([50]), np.random.default_rng(1)
    begun = Broadcast(rng.standard_normal(50).astype(np.float32), layout, 9)
    rule = build_aggregator("ldawa-normalised")
    sent = [
        Update((factor * begun.weights).astype(np.float32), 1, {}, {}, 9, layout.digest)
        for factor in (1.0, 1.0, -1.0)
    ]
    turned = begun.weights + 0.15 * rng.standard_normal(50)
    sent.append(Update(-turned.astype(np.float32), 1, {}, {}, 9, layout.digest))
    flat = folded(rule, begun, sent)
    parts = [folded(rule, begun, sent[:2]).part(), folded(rule, begun, sent[2:]).part()]
    assert abs(float((parts[0].weight + parts[1].weight)[0, 0])) < 0.02
    root = folded(rule, begun, [], parts)
    np.testing.assert_allclose(result(root), result(flat), rtol=1e-6)
    assert np.abs(result(flat) - begun.weights).max() > 0.01


def test_an_edge_sends_twice_the_bytes_of_an_update_however_many_phones_it_has() -> None:
    begun, updates = case(phones=40)
    part = folded(FedAvg(), begun, updates).part()
    items = part_items(part)
    assert len(items["total"]) == 2 * updates[0].weights.nbytes  # type: ignore[arg-type]
    again = read_part(items)
    assert np.array_equal(again.total, part.total)
    assert np.array_equal(again.weight, part.weight)
    assert dataclasses.replace(again, total=part.total, weight=part.weight) == part


def test_a_parent_knows_the_bundles_of_phones_behind_an_edge() -> None:
    begun, updates = case(phones=5)
    said = [dataclasses.replace(u, bundle=b) for u, b in zip(updates, (*BUNDLES, *BUNDLES, ""), strict=True)]
    lower = folded(FedAvg(), begun, said[1:]).part()
    assert read_part(part_items(lower)).bundles == {BUNDLES[0]: 1, BUNDLES[1]: 2}
    root = folded(FedAvg(), begun, said[:1], [lower])
    assert dict(root.outcome(2, 0.0, {}, 0).bundles) == {BUNDLES[0]: 2, BUNDLES[1]: 2}


def case(phones: int = 3, round_number: int = 1) -> tuple[Broadcast, list[Update]]:
    rng = np.random.default_rng(0)
    begun = Broadcast(rng.standard_normal(TWO.size).astype(np.float32), TWO, round_number)
    return begun, [honest(rng, begun, 0.1) for _ in range(phones)]


def spoilt(part: Part, name: str, value: float) -> bytes:
    array = getattr(part, name).copy()
    array[0, -1] = value
    return bytes(array.tobytes())


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (lambda p: {"round": 2}, "belongs to round 2, this is round 1"),
        (lambda p: {"layout": "0" * 64}, "layout '000000000000'"),
        (lambda p: {"rule": "LDawa(warmup=3, normalise=False)"}, "the edge folds by 'LDawa.*give both one --config"),
        (lambda p: {"rule": "x" * 10**6}, "the edge folds by 'x{100}'"),
        (lambda p: {"updates": 0}, "a fold of 0 updates"),
        (lambda p: {"updates": -1}, "a fold of -1 updates"),
        (lambda p: {"updates": 10_001}, "a fold of 10001 updates, expected 1 to 10000"),
        (lambda p: {"updates": 1.0}, "cannot be read"),
        (lambda p: {"total": None}, "cannot be read"),
        (lambda p: {"weight": 3}, "cannot be read"),
        (lambda p: {"sums": 2, "total": p.total.tobytes() * 2, "weight": p.weight.tobytes() * 2}, r"\[2, 5\]"),
        (lambda p: {"sums": 0}, "cannot be read"),
        (lambda p: {"sums": 2**62}, "cannot be read"),
        (lambda p: {"total": b""}, r"total is float64 \[1, 0\]"),
        (lambda p: {"total": p.total.tobytes()[:-1]}, "cannot be read"),
        (lambda p: {"weight": p.weight.tobytes()[:8]}, r"weight is float64 \[1, 1\], expected float64 \[1, 2\]"),
        (lambda p: {"format": "float32"}, "format 'float32', expected 'float64'"),
        (lambda p: {"total": spoilt(p, "total", np.nan)}, "total is not finite"),
        (lambda p: {"total": spoilt(p, "total", -np.inf)}, "total is not finite"),
        (lambda p: {"weight": spoilt(p, "weight", np.nan)}, "weight is not finite"),
        (lambda p: {"weight": spoilt(p, "weight", -1.0)}, "weights from -1 to"),
        (lambda p: {"weight": spoilt(p, "weight", 3e6 + 1)}, r"to 3e\+06, expected 0 to 3e\+06"),
        (lambda p: {"weight": spoilt(p, "weight", 0.0)}, "more than 11 times"),
        (lambda p: {"total": spoilt(p, "total", 1e308)}, "sums are inf from"),
        (lambda p: {"total": (100 * p.total).tobytes()}, "more than 11 times"),
        (lambda p: {"loss-sound": float("nan")}, "the loss of sound is nan"),
        (lambda p: {"loss-photo": -1e308}, "the loss of photo is -1e"),
        (lambda p: {"loss-photo": "low"}, "cannot be read"),
        (lambda p: {"seen-sound": -1}, "-1 sounds in 3 updates"),
        (lambda p: {"seen-sound": 2**62}, "sounds in 3 updates"),
        (lambda p: {"failures-silent": -1}, "-1 failures of the kind 'silent'"),
        (lambda p: {"failures-silent": 2**62}, "failures of the kind 'silent'"),
        (lambda p: {"failures-<b>": 1}, "1 failures of the kind '<b>'"),
        (lambda p: {f"failures-{i}": 1 for i in range(17)}, "cannot be read"),
        (lambda p: {"bundle-<b>": 1}, "1 of 3 updates with the bundle '<b>'"),
        (lambda p: {f"bundle-{BUNDLES[0]}": 4}, "4 of 3 updates with the bundle 'aaa"),
        (lambda p: {f"bundle-{BUNDLES[0]}": -1}, "-1 of 3 updates"),
        (lambda p: {f"bundle-{BUNDLES[0]}": "all"}, "cannot be read"),
        (lambda p: {f"bundle-{i:064x}": 0 for i in range(9)}, "cannot be read"),
    ],
)  # fmt: skip
def test_what_a_parent_refuses(changes: Any, reason: str) -> None:
    begun, updates = case()
    part = folded(FedAvg(), begun, updates).part()
    fold = fold_of(FedAvg(), begun)
    fold.take(7, brings(part, **changes(part)), begun.round, edge=True)
    (failure,) = fold.failures
    assert (failure.phone, failure.kind) == (7, Kind.REFUSED)
    assert len(failure.reason) <= 500
    assert re.search(reason, failure.reason), failure.reason
    assert np.array_equal(result(fold), begun.weights)  # nothing of it was folded
    fold.take(8, brings(part), begun.round, edge=True)
    assert fold.updates == 3


@pytest.mark.parametrize("normalise", [False, True])
def test_cosines_have_bounds_of_their_own(normalise: bool) -> None:
    """After its warm-up the weight of L-DAWA counts phones, or sums cosines; it cannot be as large as examples."""
    begun, updates = case(round_number=9)
    rule = LDawa(normalise=normalise)
    assert factors_of(rule, begun, 1000) == [(-1.0, 1.0) if normalise else (1.0, 1.0)]
    part = folded(rule, begun, updates).part()
    fold = fold_of(rule, begun)
    heavier = {"total": (100 * part.total).tobytes(), "weight": (100 * part.weight).tobytes()}
    fold.take(7, brings(part, **heavier), begun.round, edge=True)
    assert "for 3 updates" in fold.failures[0].reason
    fold.take(8, brings(part, total=(100 * part.total).tobytes()), begun.round, edge=True)
    assert "more than 11 times" in fold.failures[1].reason
    assert fold.updates == 0


def test_a_server_optimiser_has_the_bounds_of_the_rule_below_it() -> None:
    begun, _ = case(round_number=9)
    over = build_aggregator("fedadam", {"over": "ldawa-normalised"})
    assert factors_of(over, begun, 1000) == [(-1.0, 1.0)]
    assert factors_of(build_aggregator("fedavgm"), begun, 1000) == [(0.0, 1000.0)]


@pytest.mark.parametrize("settings", [("fedvssl", {}), ("fedavgm", {"over": "fedvssl"})])
def test_an_edge_of_one_phone_has_the_say_of_one_phone(settings: tuple[str, dict[str, Any]]) -> None:
    """FedVSSL's second sum weighs by exp(-loss), which is at most 1; by examples, one edge outweighed all phones."""
    rule = build_aggregator(*settings)
    begun, updates = case(phones=100)
    part = folded(rule, begun, updates[:1]).part()
    total, weight = part.total.copy(), part.weight.copy()
    for claimed, counts in ((1e6, False), (1 + 1e-6, False), (1.0, True)):
        total[1], weight[1] = part.total[1] * claimed / part.weight[1, 0], claimed
        fold = folded(rule, begun, updates)
        heavier = {"total": total.tobytes(), "weight": weight.tobytes()}
        fold.take(1000, brings(part, **heavier), begun.round, edge=True)
        assert (fold.failures == ()) is counts
        assert counts or "expected 0 to 1 for 1 updates" in fold.failures[0].reason


def test_only_an_edge_may_send_a_fold() -> None:
    begun, updates = case()
    part = folded(FedAvg(), begun, updates).part()
    fold = fold_of(FedAvg(), begun)
    fold.take(1, brings(part), begun.round)
    assert fold.failures[0].kind is Kind.REFUSED
    assert "only an edge server may send" in fold.failures[0].reason
    both = RecordDict({**pack_update(updates[0]), FOLD: ConfigRecord(part_items(part))})  # type: ignore[arg-type]
    fold.take(2, message(both), begun.round)
    assert "only an edge server may send" in fold.failures[1].reason
    fold.take(3, message(RecordDict({FOLD: ConfigRecord({})})), begun.round, edge=True)
    assert "cannot be read" in fold.failures[2].reason
    assert fold.updates == 0


def test_an_edge_counts_once_and_its_phones_all() -> None:
    begun, updates = case()
    below = folded(FedAvg(), begun, updates)
    below.silent(50)
    below.silent(51)
    below.take(52, message(pack_update(updates[0])), begun.round - 1)
    root = folded(FedAvg(), begun, updates[:1], [below.part()])
    root.take(1000, brings(below.part()), begun.round, edge=True)  # a second answer
    root.silent(60)
    outcome = root.outcome(3, 0.0, {}, 0)
    assert (root.fresh, outcome.phones, outcome.failed) == (2, 4, 4)
    assert Counter({f.kind: f.count for f in outcome.failures if f.behind}) == {Kind.SILENT: 2, Kind.LATE: 1}
    assert {f.phone for f in outcome.failures if f.behind} == {1000}
    assert Counter(root.part().failures) == {Kind.SILENT: 3, Kind.LATE: 1}  # for the server above this one


@dataclasses.dataclass(frozen=True)
class Median:
    """No sum: its state is all updates."""

    def start(self, begun: Broadcast) -> list[NDArray[np.float32]]:
        return [begun.weights]

    def add(self, state: list[NDArray[np.float32]], update: Update) -> list[NDArray[np.float32]]:
        return [*state, update.weights]

    def merge(
        self, first: list[NDArray[np.float32]], second: list[NDArray[np.float32]]
    ) -> list[NDArray[np.float32]]:
        return first + second[1:]

    def finish(self, state: list[NDArray[np.float32]]) -> GlobalModel:
        return GlobalModel(np.median(state[1:] or state, axis=0).astype(np.float32))


def test_a_rule_that_is_no_sum_says_so() -> None:
    rule: Aggregator[Any] = Median()
    with pytest.raises(ConfigError, match="aggregator: median is no sum, so edge servers cannot fold"):
        check_is_sum("median", rule, TWO)
    for name in summed_rules():
        check_is_sum(name, build_aggregator(name), TWO)
    begun, updates = case()
    fold = fold_of(rule, begun)  # of a server that was told so late
    fold.take(1, brings(folded(FedAvg(), begun, updates).part()), begun.round, edge=True)
    assert "no sum" in fold.failures[0].reason

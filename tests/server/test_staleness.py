"""Late updates count as if they had begun with the newest weights, for what they are worth."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from pocketfed.core.errors import UpdateRejected
from pocketfed.core.layout import Layout, Role, Slice
from pocketfed.core.plan import Update
from pocketfed.server.aggregators import Broadcast, FedAvg, aggregator
from pocketfed.server.aggregators.aggregator import distance
from pocketfed.server.history import History
from pocketfed.server.staleness import Staleness
from tests.server.folds import folded

TRAINED, STATISTICS = 5, 3
LAYOUT = Layout(
    (
        Slice("backbone.w", (TRAINED,), Role.BACKBONE, 0),
        Slice("backbone.running_var", (STATISTICS,), Role.BUFFER, TRAINED),
    )
)


def vectors(seed: int) -> list[NDArray[np.float32]]:
    rng = np.random.default_rng(seed)
    drawn = [rng.standard_normal(TRAINED + STATISTICS).astype(np.float32) for _ in range(3)]
    for vector in drawn:
        vector[TRAINED:] = np.abs(vector[TRAINED:])  # variances
    return drawn


@given(
    seed=st.integers(0, 1000),
    tau=st.integers(0, 50),
    decay=st.sampled_from(["constant", "polynomial", "hinge"]),
    discounts=st.sampled_from(["weight", "step"]),
    step=st.floats(0.01, 2),
)
def test_it_is_the_formula_of_the_module(
    seed: int, tau: int, decay: str, discounts: str, step: float
) -> None:
    after, base, now = vectors(seed)
    staleness = Staleness(50, decay, 0.7, 6, discounts, step)  # type: ignore[arg-type]
    worth = {"constant": 1, "polynomial": 1 / (1 + tau) ** 0.7, "hinge": 1 / (0.7 * max(0, tau - 6) + 1)}[
        decay
    ]
    factor = step * worth if discounts == "step" else step
    wanted = []
    for i, (a, b, n) in enumerate(zip(after.tolist(), base.tolist(), now.tolist(), strict=True)):
        wanted.append(n + factor * (a - b) if i < TRAINED else n + min(factor, 1) * (a - n))
    if tau == 0:
        base = now  # the newest weights are those that it began with
        wanted[:TRAINED] = (now + factor * (after.astype(float) - now))[:TRAINED].tolist()
    found = staleness.apply(Update(after, 7), base, now, tau, LAYOUT)
    np.testing.assert_allclose(found.weights, wanted, rtol=1e-5, atol=1e-6)
    assert found.weights.dtype == np.float32
    assert found.count == pytest.approx(7 * (worth if discounts == "weight" else 1))
    assert (found.weights[TRAINED:] >= 0).all(), "variances stay variances"


def test_a_fresh_update_is_left_alone_to_the_last_bit() -> None:
    after, base, _ = vectors(0)
    update = Update(after, 7)
    for discounts in ("weight", "step"):
        staleness = Staleness(5, "polynomial", discounts=discounts)
        assert staleness.apply(update, base, base, 0, LAYOUT) is update


@pytest.mark.parametrize(
    ("staleness", "worth"),
    [
        (Staleness(), [1, 1, 1, 1]),
        (Staleness(decay="polynomial"), [1, 2**-0.5, 3**-0.5, 0.5]),
        (Staleness(decay="polynomial", a=1), [1, 1 / 2, 1 / 3, 1 / 4]),
        (Staleness(decay="hinge", a=10, b=1), [1, 1, 1 / 11, 1 / 21]),
    ],
)
def test_discounts_are_those_of_the_paper(staleness: Staleness, worth: list[float]) -> None:
    assert [staleness.discount(tau) for tau in range(4)] == pytest.approx(worth)


def test_what_would_overflow_is_refused() -> None:
    largest = np.full(TRAINED + STATISTICS, 3e38, dtype=np.float32)
    with pytest.raises(UpdateRejected, match="not finite once"):
        Staleness(1).apply(Update(largest, 1), np.zeros_like(largest), largest, 1, LAYOUT)


def test_history_is_bounded_and_keeps_the_newest() -> None:
    """Of the weights; the moments of a server optimiser are of the newest round alone."""
    history = History(3)
    for number in range(1, 9):
        weights = np.full(LAYOUT.size, number, dtype=np.float32)
        history = history.begin(Broadcast(weights, LAYOUT, number, {"moments": weights}))
        assert len(history.versions) <= 3
    assert sorted(history.versions) == [6, 7, 8]
    assert all(
        begun.round == number and (begun.weights == number).all()
        for number, begun in history.versions.items()
    )
    assert all(begun.memory == {} for begun in history.versions.values())


def test_the_norm_of_a_version_is_worked_out_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes a pass over the whole model, as the check of an update does."""
    begun = Broadcast(np.ones(LAYOUT.size, dtype=np.float32), LAYOUT, 1)
    passes: list[int] = []

    def counted(first: NDArray[np.float32], second: NDArray[np.float32]) -> float:
        passes.append(1)
        return distance(first, second)

    monkeypatch.setattr(aggregator, "distance", counted)
    updates = [Update(begun.weights, 1, round=1, layout=LAYOUT.digest)] * 5
    assert folded(FedAvg(), begun, updates).updates == 5
    assert len(passes) == 1

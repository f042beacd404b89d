"""What the guard lets through and what it refuses, with the reason."""

import functools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pocketfed.core.errors import UpdateRejected
from pocketfed.core.layout import Layout, Role, Slice
from pocketfed.core.modality import Modality
from pocketfed.core.plan import Update as Sent
from pocketfed.server.aggregators import Broadcast
from pocketfed.server.aggregators.aggregator import BLOCK, distance
from pocketfed.server.guard import Guard

LAYOUT = Layout((Slice("backbone.w", (4,), Role.BACKBONE, 0),))
BEGUN = Broadcast(np.ones(4, dtype=np.float32), LAYOUT, 3)
Update = functools.partial(Sent, round=3, layout=LAYOUT.digest)


def test_an_honest_update_passes_unchanged() -> None:
    update = Update(np.full(4, 1.5, dtype=np.float32), 10, {Modality.PHOTO: 7}, {Modality.PHOTO: 2.0})
    assert Guard().check(update, BEGUN) is update


@pytest.mark.parametrize(
    ("update", "reason"),
    [
        (Sent(np.ones(4, dtype=np.float32), 1, round=2, layout=LAYOUT.digest), "belongs to round 2"),
        (Sent(np.ones(4, dtype=np.float32), 1, round=4, layout=LAYOUT.digest), "belongs to round 4"),
        (Sent(np.ones(4, dtype=np.float32), 1, round=3, layout="0" * 64), "layout '000000000000'"),
        (Update(np.ones(5, dtype=np.float32), 1), r"float32 \[5\], expected float32 \[4\]"),
        (Update(np.ones((2, 2), dtype=np.float32), 1), r"\[2, 2\]"),
        (Update(np.ones(4), 1), "float64"),  # type: ignore[arg-type]
        (Update(np.array([1, np.nan, 1, 1], dtype=np.float32), 1), "weights are not finite"),
        (Update(np.array([1, np.inf, 1, 1], dtype=np.float32), 1), "weights are not finite"),
        (Update(np.full(4, 3e38, dtype=np.float32), 1), "moved by 6e"),
        (Update(np.ones(4, dtype=np.float32), 0), "0 examples"),
        (Update(np.ones(4, dtype=np.float32), -3), "-3 examples"),
        (Update(np.ones(4, dtype=np.float32), 10**12), "1000000000000 examples"),
        (Update(np.ones(4, dtype=np.float32), 1, {}, {Modality.SOUND: float("nan")}), "loss of sound is nan"),
        (Update(np.ones(4, dtype=np.float32), 1, {}, {Modality.PHOTO: -1e308}), "loss of photo is -1e"),
        (
            Update(np.ones(4, dtype=np.float32), 5, {Modality.PHOTO: 6}, {Modality.PHOTO: 1.0}),
            "6 photos among 5",
        ),
    ],
)
def test_what_is_refused(update: Sent, reason: str) -> None:
    with pytest.raises(UpdateRejected, match=reason):
        Guard().check(update, BEGUN)


@given(
    seed=st.integers(0, 99),
    scale=st.floats(-44, 38).map(lambda power: 10.0**power),
    size=st.sampled_from([1, 7, BLOCK - 1, BLOCK, 2 * BLOCK + 3]),
)
@settings(deadline=None, max_examples=40)
def test_a_distance_is_right_beyond_what_squares_of_float32_can_say(
    seed: int, scale: float, size: int
) -> None:
    rng = np.random.default_rng(seed)
    first, second = (scale * rng.uniform(-1, 1, (2, size))).astype(np.float32)
    exact = math.sqrt(float(np.square(first.astype(np.float64) - second).sum()))
    assert distance(first, second) == pytest.approx(exact, rel=1e-6, abs=0)
    assert distance(first, first) == 0
    for bad in (math.nan, math.inf, -math.inf):
        spoilt = first.copy()
        spoilt[-1] = bad
        assert not math.isfinite(distance(spoilt, second))
        assert not math.isfinite(distance(spoilt, spoilt))

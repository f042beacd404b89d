"""Which captures are held out."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pocketfed.core.captures.splitting import hold_out

CAST = st.lists(st.tuples(st.integers(-1, 3), st.integers(-1, 9)), min_size=1, max_size=60)
SEED = st.integers(0, 2**32 - 1)


@settings(deadline=None)
@given(labels=st.lists(st.integers(-1, 3), min_size=1, max_size=80), seed=SEED)
def test_each_class_is_held_out_by_a_fifth(labels: list[int], seed: int) -> None:
    array = np.array(labels, dtype=np.int64)
    test = hold_out(array, np.full(len(array), -1, dtype=np.int64), seed)
    for label in set(labels):
        size, held = int((array == label).sum()), int(test[array == label].sum())
        assert held == (0 if size == 1 else max(1, round(0.2 * size)))
        assert held < size


@settings(deadline=None)
@given(cast=CAST, seed=SEED)
def test_known_groups_stay_whole(cast: list[tuple[int, int]], seed: int) -> None:
    labels, groups = (np.array(column, dtype=np.int64) for column in zip(*cast, strict=True))
    test = hold_out(labels, groups, seed)
    assert not set(groups[test & (groups >= 0)]) & set(groups[~test])
    assert not test.all()
    np.testing.assert_array_equal(test, hold_out(labels, groups, seed))


@pytest.mark.parametrize("seed", range(5))
def test_groups_of_one_class_are_drawn_class_by_class(seed: int) -> None:
    groups = np.repeat(np.arange(20, dtype=np.int64), 3)
    labels = groups // 10
    test = hold_out(labels, groups, seed)
    assert [int(test[labels == label].sum()) for label in (0, 1)] == [6, 6]


def test_the_seed_changes_the_draw() -> None:
    labels = np.zeros(100, dtype=np.int64)
    groups = np.full(100, -1, dtype=np.int64)
    assert np.any(hold_out(labels, groups, 0) != hold_out(labels, groups, 1))


def test_a_single_group_cannot_be_split() -> None:
    labels, groups = np.array([0, 1, 0], dtype=np.int64), np.zeros(3, dtype=np.int64)
    assert not hold_out(labels, groups, 0).any()

"""Shares are what people mean by them."""

from decimal import Decimal
from math import ceil

from hypothesis import given
from hypothesis import strategies as st

from pocketfed.server.share import share_of

COUNTS = st.integers(1, 1_000_000)


@given(COUNTS.flatmap(lambda count: st.tuples(st.integers(0, count), st.just(count))))
def test_so_many_of_so_many_are_their_share(pair: tuple[int, int]) -> None:
    part, count = pair
    assert share_of(count, part / count) == part


@given(COUNTS, st.decimals(0, 2, places=3))
def test_it_is_what_exact_decimals_give(count: int, share: Decimal) -> None:
    assert share_of(count, float(share)) == ceil(share * count)

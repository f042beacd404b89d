"""How many a share of so many is, of phones, of updates; and of how many a share is so many."""

import math


def share_of(count: int, share: float) -> int:
    """The least whole number that is at least `share` of `count`.

    A product that is off a whole number by less than 1e-9 is that number: 0.28 stands for 28 %, although 0.28 * 25 is
    7.000000000000001. With up to a million, rounding errors are smaller than that.

    >>> share_of(25, 0.28), share_of(25, 0.281)
    (7, 8)
    """
    return math.ceil(round(count * share, 9))


def count_with(wanted: int, share: float) -> int:
    """The least count of which the share (above 0, at most 1) is at least `wanted`.

    >>> count_with(7, 0.28), count_with(8, 0.28), count_with(5, 1.0)
    (22, 26, 5)
    """
    count = int((wanted - 1) / share)
    while share_of(count, share) < wanted:
        count += 1
    return count

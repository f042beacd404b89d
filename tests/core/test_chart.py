"""The frame of a chart."""

import pytest

from pocketfed.core.pages.chart import FRAME, chart, ticks


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.31, 0.36, [0.3, 0.32, 0.34, 0.36]),
        (1.5, 3.3, [1.5, 2.0, 2.5, 3.0, 3.5]),
        (0.0, 0.0, [0.0, 0.005]),
        (0.2, 0.2, [0.2, 0.205]),
        (0.0, 1.0, [0.0, 0.5, 1.0]),
    ],
)
def test_ticks(low: float, high: float, expected: list[float]) -> None:
    assert ticks(low, high) == pytest.approx(expected)


def test_a_window_of_rounds_fills_the_frame() -> None:
    drawn = chart({"Loss": [(4501, 2.0), (5000, 1.0)]}, 5000, 4500)
    assert drawn is not None
    assert (drawn.x(4500), drawn.x(5000)) == FRAME[:2]
    assert all(4500 <= at <= 5000 for at in drawn.across)
    assert FRAME[2] <= drawn.y(2.0) < drawn.y(1.0) <= FRAME[3]


def test_no_values_no_chart() -> None:
    assert chart({"Loss": []}, 1) is None

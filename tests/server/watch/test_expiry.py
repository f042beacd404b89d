"""A certificate that ends soon is said to, on the page and once a day in the log."""

import io
from datetime import UTC, datetime, timedelta

import pytest

from pocketfed.server.logs import LogFormat, structured_logs
from pocketfed.server.watch.expiry import Expiry, warning_of
from pocketfed.server.watch.page import live_page
from pocketfed.server.watch.scoreboard import Scoreboard

UNTIL = datetime(2027, 1, 31, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("left", "said"),
    [
        (timedelta(days=30, seconds=1), None),
        (timedelta(days=30), "certificate ends in 30 days (2027-01-31 12:00 UTC)"),
        (timedelta(hours=30), "certificate ends in 30 hours"),
        (timedelta(0), "certificate has ended"),
        (timedelta(days=-3), "certificate has ended"),
    ],
)
def test_what_is_said_of_it(left: timedelta, said: str | None) -> None:
    board = Scoreboard(certificate_until=UNTIL)
    shown = live_page(board.snapshot(), UNTIL - left)
    if said is None:
        assert warning_of(UNTIL, UNTIL - left) is None
        assert "<h2>Certificate</h2>" not in shown
    else:
        assert said in (warning_of(UNTIL, UNTIL - left) or "")
        assert said in shown
        assert "and restart the server." in shown


def test_plain_http_has_no_certificate() -> None:
    assert warning_of(None, UNTIL) is None
    assert "<h2>Certificate</h2>" not in live_page(Scoreboard().snapshot(), UNTIL)


def test_the_log_says_it_once_a_day_from_thirty_days_before() -> None:
    stream, now = io.StringIO(), UNTIL - timedelta(days=33)
    with structured_logs(LogFormat.TEXT, stream=stream):
        expiry = Expiry(UNTIL, lambda: now)
        for hour in range(33 * 24):
            now = UNTIL - timedelta(days=33) + timedelta(hours=hour)
            expiry.waiting(0, 2) if hour % 2 else expiry.begun(1, 0, [], 0)
            expiry.upstream(None)
    lines = stream.getvalue().splitlines()
    assert len(lines) == 30
    assert "warning" in lines[0]
    assert "ends in 30 days" in lines[0]

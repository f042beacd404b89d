"""The server's clock, as well as a phone can know it: signatures are good for five minutes of it only."""

import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime

TOLERANCE = 3.0
"""Seconds by which the `Date` header may differ because it is coarse."""

LAG = 30.0
"""Seconds by which it may be behind this phone's clock where nothing is wrong: it took its time to come, and a phone that
is ahead only stops work early. Nothing makes it early: a phone that is behind it is slow, and would miss deadlines."""


class ServerClock:
    """This phone's clock and a correction, which is 0 until a server says otherwise."""

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        self._now = now
        self.offset = 0.0

    def now(self) -> float:
        """Seconds since 1970 by the server's clock."""
        return self._now() + self.offset

    def here(self) -> float:
        """Seconds since 1970 by this phone's own clock, whatever the server's says."""
        return self._now()

    def local(self, moment: float) -> float:
        """A moment of the server's clock on this phone's."""
        return moment - self.offset

    def correct(self, date: str | None, came: float, lag: float = TOLERANCE) -> bool:
        """Go by a `Date` header, if it contradicts this clock; whether it did.

        The header lags behind by up to two seconds, which is the harmless direction: a server refuses signatures from
        the future at once, from the past only after minutes.

        Args:
            date: the header; None if there was none.
            came: when it did, before the content that it stands above; seconds since 1970 by `here`.
            lag: seconds that it may be behind without contradicting; it never may be more than `TOLERANCE` ahead.
        """
        if date is None:
            return False
        try:
            measured = parsedate_to_datetime(date).timestamp() - came
        except (ValueError, OverflowError):
            return False
        if -lag < measured - self.offset < TOLERANCE:
            return False
        self.offset = measured
        return True

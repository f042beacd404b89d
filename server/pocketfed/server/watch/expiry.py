"""How long the server's certificate is good: no phone comes when it has ended, and no round says why."""

import logging
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta

from pocketfed.server.watch.watcher import ServerWatcher

LOG = logging.getLogger("pocketfed.certificate")

SOON = timedelta(days=30)
"""Before its end, from which on it is warned of."""

AGAIN = timedelta(days=1)
"""After which the log says it again."""


def warning_of(until: datetime | None, now: datetime) -> str | None:
    """What to say of a certificate that is good until then, or None while there is time; None is no certificate."""
    if until is None or now < until - SOON:
        return None
    left = until - now
    when = f"in {left.days} days" if left.days > 1 else f"in {left.total_seconds() / 3600:.0f} hours"
    return (
        f"the server's certificate {'ends ' + when if left > timedelta(0) else 'has ended'} "
        f"({until:%Y-%m-%d %H:%M} UTC), and phones refuse it from then on; renew it (pocketfed certs DIR --renew) and "
        "restart the server"
    )


class Expiry(ServerWatcher):
    """Says in the log, once a day, that the certificate ends soon."""

    def __init__(self, until: datetime, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        """Nothing is said yet.

        Args:
            until: when it ends, with a time zone.
            now: the time, with a time zone.
        """
        self._until, self._now = until, now
        self._said: datetime | None = None

    def waiting(self, present: int, needed: int) -> None:
        """See `RoundWatcher`."""
        self._look()

    def begun(self, round_number: int, attempt: int, cohort: Sequence[int], present: int) -> None:
        """See `RoundWatcher`."""
        self._look()

    def upstream(self, problem: str | None) -> None:
        """See `ServerWatcher`."""
        self._look()

    def _look(self) -> None:
        now = self._now()
        if self._said is not None and now < self._said + AGAIN:
            return
        if (warning := warning_of(self._until, now)) is not None:
            self._said = now
            LOG.warning(warning)

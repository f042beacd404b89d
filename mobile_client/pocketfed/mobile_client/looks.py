"""Looks at a phone's captures besides those of a round: brief, and decoding no more than the policy allows."""

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

BRIEF = 5.0
"""Seconds after which no further file is decoded: a server waits for what the phone does next."""

EVERY = 60.0
"""Seconds between two looks of an idle phone."""

Scan = Callable[[Callable[[], None]], None]
"""Looks at the folder; what it is given is called before each file is decoded, and may raise to give up."""


class _Enough(Exception):
    """Nothing more is decoded in this look."""


def look_briefly(
    scan: Scan,
    refusal: Callable[[], str | None],
    seconds: float = BRIEF,
    monotonic: Callable[[], float] = time.monotonic,
) -> bool:
    """Look once; what is gone is forgotten in any case, and an inbox kept small.

    Args:
        scan: of the store.
        refusal: why nothing may be decoded now; None if it may.
        seconds: that decoding may take, listing the folder aside; a file that has been begun is finished.
        monotonic: a clock that only goes forward, in seconds.

    Returns:
        Whether there was more to decode than there was time for.
    """
    until: float | None = None
    late = False

    def between() -> None:
        nonlocal until, late
        now = monotonic()
        until = now + seconds if until is None else until
        late = now >= until
        if late or refusal() is not None:
            raise _Enough

    with suppress(_Enough):
        scan(between)
    return late


@dataclass
class IdleLooks:
    """Looks once a minute for as long as it is called; at each call while there is more to decode.

    Attributes:
        scan: of the store.
        refusal: see `look_briefly`.
        monotonic: a clock that only goes forward, in seconds.
    """

    scan: Scan
    refusal: Callable[[], str | None]
    monotonic: Callable[[], float] = time.monotonic
    _next: float | None = None  # when to look; None for at once

    def __call__(self) -> None:
        """Look, if it is time."""
        if self._next is not None and self.monotonic() < self._next:
            return
        more = look_briefly(self.scan, self.refusal, monotonic=self.monotonic)
        self._next = None if more else self.monotonic() + EVERY

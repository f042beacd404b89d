"""What all rounds of a run share."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from flwr.serverapp import Grid

from pocketfed.core.errors import NoPhonesError
from pocketfed.server.outcome import RoundWatcher
from pocketfed.server.roster import Roster
from pocketfed.server.terms import Rounds

LOOK = 0.5
"""Seconds between two looks for phones while there are too few."""


@dataclass(frozen=True)
class Session:
    """The server's surroundings while it runs rounds.

    Attributes:
        grid: carries messages.
        rounds: what the server decides.
        roster: who is there.
        watcher: is told of everything; persists finished rounds.
        stopping: asked between rounds and while waiting.
    """

    grid: Grid
    rounds: Rounds
    roster: Roster
    watcher: RoundWatcher
    stopping: Callable[[], bool] = lambda: False

    def wait_for_phones(self) -> Mapping[int, int] | None:
        """The phones that may be chosen, as soon as there are enough; None if the server is to stop.

        Raises:
            NoPhonesError: there were too few for too long.
        """
        terms = self.rounds.terms
        until = time.monotonic() + terms.patience
        while not self.stopping():
            self.roster.refresh(self.grid)
            eligible = self.roster.eligible()
            if len(eligible) >= terms.minimum:
                return eligible
            if time.monotonic() > until:
                raise NoPhonesError(
                    f"{len(eligible)} of {terms.minimum} phones came within {terms.patience:.0f} seconds; "
                    "go on when there are more, or lower the minimum"
                )
            self.watcher.waiting(len(eligible), terms.minimum)
            time.sleep(LOOK)
        return None

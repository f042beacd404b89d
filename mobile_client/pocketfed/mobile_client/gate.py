"""Whether a phone may train now, looked up anew each time, and the pause until it may again."""

import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from pocketfed.core.errors import Declined, PolicyError
from pocketfed.mobile_client.conditions import Conditions, read_conditions
from pocketfed.mobile_client.policy import read_policy, refusal

LOOK_EVERY = 1.0
"""Seconds between two looks while training is paused."""


class Gate:
    """Lets a phone train, or says why not.

    Args:
        policy_file: TOML (`policy.Policy`); without one, training is always allowed.
        clock: seconds since 1970.
        sleep: waits for so many seconds.

    Raises:
        PolicyError: the policy file is missing or wrong. Once a gate exists, such a file means "not allowed": it may be
            half-written.
    """

    def __init__(
        self,
        policy_file: Path | None,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._policy_file, self._clock, self._sleep = policy_file, clock, sleep
        if policy_file is not None:
            read_policy(policy_file)

    def refusal(self) -> str | None:
        """Why training is not allowed now; None if it is. Reads both files anew, and never fails because of them."""
        if self._policy_file is None:
            return None
        try:
            policy = read_policy(self._policy_file)
            asked = policy.state if policy.needs_state else None
            conditions = Conditions() if asked is None else read_conditions(asked)
        except PolicyError as error:
            return str(error).replace("\n", "; ")
        return refusal(policy, conditions, datetime.fromtimestamp(self._clock()))

    def charging(self) -> bool:
        """Whether the phone is connected to power, as far as its state file says; the server may ask. Never fails."""
        if self._policy_file is None:
            return False
        try:
            state = read_policy(self._policy_file).state
            return state is not None and read_conditions(state).charging is True
        except PolicyError:
            return False

    def pause(self, until: float) -> None:
        """Return at once if training is allowed; else wait for it, looking once a second.

        Args:
            until: seconds since 1970, when waiting ends.

        Raises:
            Declined: it was not allowed by then; with the reason.
        """
        while (reason := self.refusal()) is not None:
            left = until - self._clock()
            if left <= 0:
                raise Declined(reason)
            self._sleep(min(LOOK_EVERY, left))

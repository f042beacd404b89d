"""When a phone may train: its owner's rules, against its state and the time of day."""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StrictBool,
    ValidationError,
    field_validator,
    model_validator,
)

from pocketfed.core.errors import PolicyError
from pocketfed.core.parsing import parse_toml
from pocketfed.mobile_client.conditions import Conditions, Thermal

DAY = 24 * 60
"""Minutes."""


@dataclass(frozen=True)
class Hours:
    """A part of every day, by the phone's own clock; it passes midnight where `end` is not after `begin`.

    Attributes:
        begin: minutes after midnight, the first of the part.
        end: minutes after midnight, the first after the part; 1440 is midnight too.
    """

    begin: int
    end: int

    @classmethod
    def parse(cls, text: str) -> "Hours":
        """From text such as "22:00-06:00".

        Raises:
            ValueError: it is something else, or the part is empty.
        """
        found = re.fullmatch(r"([01]\d|2[0-3]):([0-5]\d)-(?:([01]\d|2[0-3]):([0-5]\d)|24:00)", text, re.ASCII)
        if found is None:
            raise ValueError('must be like "22:00-06:00"')
        begin = 60 * int(found[1]) + int(found[2])
        end = DAY if found[3] is None else 60 * int(found[3]) + int(found[4])
        if begin == end:
            raise ValueError("begins when it ends; leave it out for the whole day")
        return cls(begin, end)

    def __str__(self) -> str:
        """As it is written in a policy file."""
        return "-".join(f"{minutes // 60:02}:{minutes % 60:02}" for minutes in (self.begin, self.end))

    def contain(self, now: datetime) -> bool:
        """Whether `now` is within."""
        minutes = 60 * now.hour + now.minute
        if self.begin < self.end:
            return self.begin <= minutes < self.end
        return minutes >= self.begin or minutes < self.end


class Policy(BaseModel):
    """What must hold for a phone to train; what is false or None may be as it likes.

    Attributes:
        charging: it must be connected to power.
        unmetered: its network must not cost by the byte.
        idle: nobody must be using it.
        max_thermal: it must not be hotter.
        min_battery: charge, from 0 to 1, that it must have.
        hours: the part of the day in which it may.
        state: the file with the phone's conditions; needed for all but `hours`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    charging: StrictBool = False
    unmetered: StrictBool = False
    idle: StrictBool = False
    max_thermal: Thermal | None = None
    min_battery: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] | None = None
    hours: Hours | None = None
    state: Path | None = None

    @field_validator("hours", mode="before")
    @classmethod
    def _hours(cls, hours: Any) -> Any:
        return hours if hours is None or isinstance(hours, Hours) else Hours.parse(str(hours))

    @model_validator(mode="after")
    def _has_state(self) -> "Policy":
        if self.needs_state and self.state is None:
            raise ValueError('state: missing; name the file with the phone\'s state, such as "state.json"')
        return self

    @property
    def needs_state(self) -> bool:
        """Whether any rule is about the phone's conditions."""
        asked = (self.max_thermal, self.min_battery)
        return self.charging or self.unmetered or self.idle or any(rule is not None for rule in asked)


def read_policy(path: Path) -> Policy:
    """Read a TOML file; the path of the state file is relative to it.

    Raises:
        PolicyError: it is missing or wrong; with every mistake, one a line.
    """
    try:
        if not path.is_file():
            raise PolicyError(f"the policy file {path} does not exist; write it, or train without one")
        values = parse_toml(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise PolicyError(f"the policy file {path} cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise PolicyError(f"the policy file {path} is no valid TOML ({error})") from error
    if isinstance(state := values.get("state"), str):
        values["state"] = path.parent / state
    try:
        return Policy.model_validate(values)
    except ValidationError as error:
        lines = (f"{path}: {_sentence(problem)}" for problem in error.errors())
        raise PolicyError("\n".join(lines)) from error


def refusal(policy: Policy, conditions: Conditions, now: datetime) -> str | None:
    """Why a phone may not train, all reasons joined; None if it may.

    Args:
        policy: the rules.
        conditions: the phone's state. What is unknown does not satisfy a rule about it.
        now: by the phone's own clock.
    """
    return "; ".join(_reasons(policy, conditions, now)) or None


def _reasons(policy: Policy, conditions: Conditions, now: datetime) -> Iterator[str]:
    if policy.charging and not conditions.charging:
        yield _unless_unknown(conditions.charging, "whether it is charging", "not charging")
    if policy.unmetered and not conditions.unmetered:
        yield _unless_unknown(
            conditions.unmetered, "whether its network is unmetered", "on a metered network"
        )
    if policy.idle and not conditions.idle:
        yield _unless_unknown(conditions.idle, "whether it is idle", "in use")
    if policy.max_thermal is not None:
        if conditions.thermal is None:
            yield "the phone does not say how hot it is"
        elif conditions.thermal.exceeds(policy.max_thermal):
            yield f"thermal state is {conditions.thermal}, the policy allows up to {policy.max_thermal}"
    if policy.min_battery is not None:
        if conditions.battery is None:
            yield "the phone does not say how full its battery is"
        elif conditions.battery < policy.min_battery:
            level = math.floor(
                round(100 * conditions.battery, 6)
            )  # 29.9 % is not shown as the 30 % that are asked for
            yield f"battery at {level} %, the policy asks for {100 * policy.min_battery:g} %"
    if policy.hours is not None and not policy.hours.contain(now):
        yield f"it is {now:%H:%M}, the policy allows {policy.hours}"


def _unless_unknown(value: bool | None, question: str, fact: str) -> str:
    return f"the phone does not say {question}" if value is None else fact


def _sentence(problem: Any) -> str:
    name = ".".join(map(str, problem["loc"]))
    if problem["type"] == "extra_forbidden":
        return f"{name}: no such rule; there are: {', '.join(Policy.model_fields)}"
    message = str(problem["msg"]).removeprefix("Value error, ")
    return f"{name} = {problem['input']!r}: {message}" if name else message

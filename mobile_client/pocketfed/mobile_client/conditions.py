"""The state of a phone that decides whether it may train, as an emulator, an app or a test writes it to a file."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pocketfed.core.errors import PolicyError

LARGEST = 65_536
"""Bytes; what is larger is no state file."""


class Thermal(StrEnum):
    """How hot a phone is, in the words of iOS; from cool to hot."""

    NOMINAL = "nominal"
    FAIR = "fair"
    SERIOUS = "serious"
    CRITICAL = "critical"

    def exceeds(self, limit: "Thermal") -> bool:
        """Whether this is hotter than `limit`."""
        heats = list(Thermal)
        return heats.index(self) > heats.index(limit)


class Conditions(BaseModel):
    """A phone's state; what is None is unknown.

    Attributes:
        charging: connected to power.
        unmetered: on a network that does not cost by the byte.
        idle: nobody uses it.
        thermal: how hot it is.
        battery: charge, from 0 to 1.
    """

    model_config = ConfigDict(frozen=True, strict=True)

    charging: bool | None = None
    unmetered: bool | None = None
    idle: bool | None = None
    thermal: Thermal | None = None
    battery: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] | None = None


def read_conditions(path: Path) -> Conditions:
    """Read a state file: a JSON object with any of the attributes; other keys are ignored.

    Raises:
        PolicyError: it is missing, half-written, or wrong; with every mistake.
    """
    try:
        if not path.is_file():  # reading from a pipe would wait for its writer
            raise PolicyError(f"the state file {path} does not exist")
        with path.open("rb") as file:
            content = file.read(LARGEST + 1)
    except OSError as error:
        raise PolicyError(f"the state file {path} cannot be read ({error.strerror})") from error
    if len(content) > LARGEST:
        raise PolicyError(f"the state file {path} is larger than {LARGEST} bytes")
    try:
        return Conditions.model_validate_json(content)
    except ValidationError as error:
        mistakes = [": ".join([*map(str, p["loc"]), p["msg"]]) for p in error.errors(include_input=False)]
        raise PolicyError(
            f"the state file {path} is wrong or half-written ({'; '.join(mistakes)})"
        ) from error

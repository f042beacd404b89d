"""Which part of a model travels between server and phones, and how it is written."""

from dataclasses import dataclass

from pocketfed.core.formats import Format
from pocketfed.core.role import Role


@dataclass(frozen=True)
class Travel:
    """An agreement for a whole run.

    Attributes:
        roles: of the slices that travel, in the order of `Role`; what has another role stays on its phone.
        down: format of the weights that phones are sent.
        up: format of what phones send back: their weights as float32, the change of the weights in any other.
    """

    roles: tuple[Role, ...] = tuple(Role)
    down: Format = Format.FLOAT32
    up: Format = Format.FLOAT32

"""Carrying trained weights over into another layout of the same backbone, as when a new bundle replaces an old one.

Slices are matched by name, shape and role. Those of the backbone, running statistics included, must all be there in
both, or the features would mean nothing; of the rest (the projector, which nobody uses after training) what does not
match begins anew.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pocketfed.core.errors import MigrationError
from pocketfed.core.layout import Layout, Slice
from pocketfed.core.role import Role

NAMED = 3
"""Differences that an error names; the rest are counted."""


@dataclass(frozen=True)
class Migrated:
    """Weights in a new layout.

    Attributes:
        weights: float32 [size of the new layout].
        carried: slices that have their old numbers.
        fresh: slices that begin anew, and why, a line each.
        dropped: names of old slices that the new layout has not.
    """

    weights: NDArray[np.float32]
    carried: tuple[Slice, ...]
    fresh: tuple[str, ...]
    dropped: tuple[str, ...]


def migrate(old: Layout, weights: NDArray[np.float32], new: Layout, begun: NDArray[np.float32]) -> Migrated:
    """Put what matches of trained weights over untrained ones.

    Args:
        old: the layout of `weights`.
        weights: trained, float32 [old.size].
        new: the layout to come.
        begun: untrained, float32 [new.size]; left as they are.

    Raises:
        MigrationError: the backbones differ; the message names the first slices that do.
    """
    before, after = ({part.name: part for part in layout.slices} for layout in (old, new))
    names = [*after, *(name for name in before if name not in after)]
    if differing := [
        _difference(name, before.get(name), after.get(name))
        for name in names
        if _of_backbone(name) and not _match(before.get(name), after.get(name))
    ]:
        more = f"; and {len(differing) - NAMED} more" if len(differing) > NAMED else ""
        raise MigrationError(f"the backbones differ: {'; '.join(differing[:NAMED])}{more}")
    carried = tuple(part for part in new.slices if _match(before.get(part.name), part))
    result = begun.copy()
    for part in carried:
        former = before[part.name]
        result[part.offset : part.offset + part.size] = weights[former.offset : former.offset + former.size]
    return Migrated(
        result,
        carried,
        tuple(_difference(p.name, before.get(p.name), p) for p in new.slices if p not in carried),
        tuple(name for name in before if name not in after),
    )


def _of_backbone(name: str) -> bool:
    """Weights and running statistics: both are named after the child of the encoder that has them."""
    return name.partition(".")[0] == Role.BACKBONE


def _match(old: Slice | None, new: Slice | None) -> bool:
    return old is not None and new is not None and (old.shape, old.role) == (new.shape, new.role)


def _difference(name: str, old: Slice | None, new: Slice | None) -> str:
    return f"{name} was {_shown(old)}, is {_shown(new)}"


def _shown(part: Slice | None) -> str:
    if part is None:
        return "absent"
    return f"{list(part.shape)}{' of running statistics' if part.role is Role.BUFFER else ''}"

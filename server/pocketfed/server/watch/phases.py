"""What a round's time is spent on; the names are few, whatever a record says."""

import math
from collections.abc import Mapping

PHASES = ("waiting", "sending", "collecting", "folding", "saving")
"""In the order in which they happen. The first four are those of `Outcome.phases`."""

OTHER = "other"


def named_phases(phases: Mapping[str, float]) -> dict[str, float]:
    """The same seconds under the names above, in their order; unknown names share `other`."""
    found: dict[str, float] = {}
    for name, seconds in phases.items():
        if math.isfinite(seconds) and seconds > 0:
            known = name if name in PHASES else OTHER
            found[known] = found.get(known, 0.0) + seconds
    return {name: found[name] for name in (*PHASES, OTHER) if name in found}

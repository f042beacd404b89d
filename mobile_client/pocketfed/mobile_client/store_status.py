"""What a store of captures holds, and what of it a person should hear."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from pocketfed.core.modality import Modality
from pocketfed.mobile_client.quarantine import Quarantined


@dataclass(frozen=True)
class StoreStatus:
    """What a store holds.

    Attributes:
        captures: that a round would train on, by modality; a sound of several windows is several.
        bytes: of these captures.
        unfinished: files that may still be being written, or that wait for a round to end.
        left_out: finished files that are too old, or too large, for the quota.
        quarantined: files that cannot be used.
        problem: what kept the last look from seeing or storing everything; None if nothing did.
    """

    captures: Mapping[Modality, int] = field(default_factory=dict)
    bytes: int = 0
    unfinished: int = 0
    left_out: int = 0
    quarantined: tuple[Quarantined, ...] = ()
    problem: str | None = None

    @property
    def summary(self) -> str:
        """The numbers that matter to a person, such as "12 photos, 3 sounds; left out for the quota: 5"."""
        held = ", ".join(f"{count} {modality}s" for modality, count in self.captures.items()) or "none"
        others = {"left out for the quota": self.left_out, "quarantined": len(self.quarantined)}
        return "; ".join([held, *(f"{name}: {count}" for name, count in others.items() if count)])

"""What the last rounds began with, for updates that are late."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from pocketfed.server.aggregators import Broadcast


@dataclass(frozen=True)
class History:
    """The newest versions of the weights, and no more than that.

    Attributes:
        most: how many are kept.
        versions: by the round that began with them, without what the rule remembered. A version knows its norm once it
            was asked for, which every update of its round needs.
    """

    most: int
    versions: Mapping[int, Broadcast] = field(default_factory=dict)

    def begin(self, begun: Broadcast) -> "History":
        """With one version more, which is the newest, and without those that are too old."""
        versions = {**self.versions, begun.round: replace(begun, memory={})}
        return History(self.most, {number: versions[number] for number in sorted(versions)[-self.most :]})

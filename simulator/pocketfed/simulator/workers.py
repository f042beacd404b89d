"""Worker processes and the cores they share."""

from pocketfed.core.processors import cores
from pocketfed.simulator.config import Config


def workers_of(config: Config) -> int:
    """Worker processes: as asked, or one per core, and never more than phones."""
    return min(config.workers or cores(), config.fleet.phones)

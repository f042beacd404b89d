"""Worker processes and the cores they share."""

import os

from pocketfed.simulator.config import Config


def cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def workers_of(config: Config) -> int:
    """Worker processes: as asked, or one per core, and never more than phones."""
    return min(config.workers or cores(), config.fleet.phones)

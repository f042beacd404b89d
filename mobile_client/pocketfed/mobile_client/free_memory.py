"""How much memory this machine could give to a program that asks for it."""

import os
import re
from pathlib import Path


def free_memory(meminfo: Path = Path("/proc/meminfo")) -> int:
    """Bytes; 0 if the machine does not say.

    On Linux and Android that is `MemAvailable`, with what caches would give back. Elsewhere only pages that hold nothing
    at all are known, which is less.

    Args:
        meminfo: where Linux says so.
    """
    try:
        if found := re.search(rb"^MemAvailable: *(\d+) kB$", meminfo.read_bytes(), re.MULTILINE):
            return 1024 * int(found[1])
    except OSError:
        pass
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return 0

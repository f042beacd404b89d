"""The machine that a benchmark ran on."""

import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

from pocketfed.core.processors import cores

PACKAGES = ("torch", "executorch", "numpy", "timm")

BUSY = 0.5
"""Load average above which another program is taking the time that is to be measured."""


def is_busy() -> bool:
    """Whether other work has been running in the last minute."""
    return hasattr(os, "getloadavg") and os.getloadavg()[0] > BUSY


def describe() -> dict[str, Any]:
    """Processor, cores, system and versions, for a reader of the figures."""
    return {
        "processor": _processor(),
        "cores": cores(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        **{package: metadata.version(package) for package in PACKAGES},
    }


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    if information.is_file():
        for line in information.read_text().splitlines():
            if line.startswith(("model name", "Hardware")):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()

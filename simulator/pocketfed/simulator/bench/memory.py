"""How far a function makes a process grow."""

import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def resident_growth(function: Callable[[], object]) -> int | None:
    """Bytes by which the peak resident memory during the call exceeds what was resident before it.

    None where the system does not say (it does on Linux).
    """
    if not (STATUS.exists() and RESET.exists()):
        return None
    before = _kilobytes("VmRSS")
    RESET.write_text("5")  # the peak begins anew at what is resident now
    function()
    return 1024 * max(0, _kilobytes("VmHWM") - before)


def growth_apart(function: Callable[[], object]) -> int | None:
    """`resident_growth` in a copy of this process, so that one measurement leaves nothing to the next.

    This process must not have started threads.
    """
    if not STATUS.exists():
        return None
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.write(writer, repr(resident_growth(function)).encode())
            status = 0
        finally:
            if status:
                traceback.print_exc()
            sys.stderr.flush()
            os._exit(status)
    os.close(writer)
    with os.fdopen(reader) as answer:
        text = answer.read()
    if os.waitpid(child, 0)[1] != 0:
        raise ChildProcessError("the process in which memory was measured failed")
    return None if text == "None" else int(text)


def _kilobytes(name: str) -> int:
    for line in STATUS.read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1])
    raise OSError(f"{STATUS} has no {name}")

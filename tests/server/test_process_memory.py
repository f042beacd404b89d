"""What the settings do, each in a process of its own."""

import subprocess
import sys

import pytest

THREADS = """
import ctypes, threading
from pocketfed.server.process_memory import share_arenas
{setting}
barrier = threading.Barrier(8)
def allocate():
    libc = ctypes.CDLL(None)
    libc.malloc.restype = ctypes.c_void_p
    assert libc.malloc(100_000)
    barrier.wait()
threads = [threading.Thread(target=allocate) for _ in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
ctypes.CDLL(None).malloc_stats()
"""

COLLECTIONS = """
import gc
from pocketfed.server.process_memory import leave_out_what_is_there
before = [object() for _ in range(10)], [[] for _ in range(1000)]
leave_out_what_is_there()
assert gc.get_freeze_count() >= 1000
after = [[] for _ in range(10)]
assert len(gc.get_objects()) < 1000
"""


def ran(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60
    ).stderr


@pytest.mark.skipif(sys.platform != "linux", reason="arenas are glibc's")
def test_threads_share_two_arenas() -> None:
    plain, shared = (ran(THREADS.format(setting=setting)) for setting in ("", "share_arenas()"))
    if "Arena 0:" not in plain:
        pytest.skip("another C library than glibc")
    assert shared.count("Arena ") == 2 < plain.count("Arena ")


def test_collections_leave_out_what_was_there() -> None:
    ran(COLLECTIONS)

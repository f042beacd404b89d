"""A folder that one process uses at a time."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from pocketfed.core.errors import UserError


@contextmanager
def exclusive(folder: Path, otherwise: UserError) -> Iterator[None]:
    """Take a folder for this process as long as this lasts; a process that ends, however it ends, gives it back.

    Args:
        folder: exists; a file named `lock` in it is what is held.
        otherwise: raised if another process has the folder.

    Raises:
        OSError: the file cannot be made.
    """
    lock = FileLock(folder / "lock")
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise otherwise from None
    try:
        yield
    finally:
        lock.release()

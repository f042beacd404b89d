"""Files that are either whole or not there, and lines that are, whatever happens while they are written."""

import errno
import os
import tempfile
from pathlib import Path


def write_atomically(path: Path, content: bytes, mode: int = 0o644) -> None:
    """Write `content` beside `path`, flush it to disk, move it into place in one step, and flush its name.

    When this returns, older files may be deleted: a power cut leaves the new one, under its name.

    With a stricter `mode`, such as 0o600 for a key, nobody else can read the file at any moment.
    """
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, mode)  # until here only its owner could read it
        os.replace(temporary, path)
        flush_names(path.parent)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def append_durably(path: Path, size: int, content: bytes) -> int:
    """Put `content` behind the first `size` bytes of a file, in place of what is there, and flush it to disk.

    A crash or a full disk may leave a part of `content`, which the next call with the same `size` writes over. A file
    that is missing begins with `content`, and one that somebody made shorter is added to as it is.

    Returns:
        The size of the file, in bytes.
    """
    is_new = not path.exists()
    with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o644), "r+b") as file:
        kept = min(size, file.seek(0, os.SEEK_END))
        file.truncate(kept)
        file.seek(kept)
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    if is_new:
        flush_names(path.parent)
    return kept + len(content)


def flush_folders(folder: Path) -> None:
    """Flush the names in a folder and in all below it: what was made or moved there survives a power cut."""
    for place, _, _ in os.walk(folder):
        flush_names(Path(place))


def flush_names(folder: Path) -> None:
    """Flush which names a folder has; where systems or file systems have no such thing, there is nothing to do."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except PermissionError:  # Windows, for any folder
        return
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    finally:
        os.close(handle)

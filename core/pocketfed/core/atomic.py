"""Files that are either whole or not there, and lines that are, whatever happens while they are written."""

import os
import tempfile
from pathlib import Path


def write_atomically(path: Path, content: bytes, mode: int = 0o644) -> None:
    """Write `content` beside `path`, flush it to disk, and move it into place in one step.

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
    with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o644), "r+b") as file:
        kept = min(size, file.seek(0, os.SEEK_END))
        file.truncate(kept)
        file.seek(kept)
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    return kept + len(content)

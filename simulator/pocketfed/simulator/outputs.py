"""Where a command is to write, looked at before it begins: work of an hour is not lost to a slip in a path."""

import tempfile
from pathlib import Path

from pocketfed.core.errors import ConfigError


def make_room(path: Path, option: str, ending: str = "") -> None:
    """Make the folder of a file or folder that is to be written, if it is not there.

    Args:
        path: of what will be written.
        option: of the command line, which the path comes from.
        ending: of the longest name of what will be beside it for a while, `.NAME` with this and a few random characters.

    Raises:
        ConfigError: the folder cannot be made, or nothing of such a name can be written into it.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}{ending}."):
            pass
    except OSError as error:
        raise ConfigError(
            [
                f"{option}: {path} cannot be written into {path.parent} ({error.strerror}); choose another place"
            ]
        ) from error

"""Moves that all come about, or none: what they replace is moved aside first, so that it can be moved back."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from pocketfed.core.atomic import flush_names
from pocketfed.core.errors import BundleError

Move = Callable[[Path, Path], None]
"""Moves a file or folder to another name on the same disk."""


@contextmanager
def moving() -> Iterator[Move]:
    """Something to move files and folders with, which are moved back, the last one first, if anything fails meanwhile.

    A process may end in between, and power be cut: then each is where it was or where it was moved to.

    Raises:
        OSError: what failed was a move; it and those before it are undone.
        BundleError: one of them cannot be moved back.
    """
    with ExitStack() as undo:

        def move(source: Path, target: Path) -> None:
            source.rename(target)
            undo.callback(_back, target, source)
            for folder in {source.parent, target.parent}:
                flush_names(folder)

        yield move
        undo.pop_all()


def _back(moved: Path, place: Path) -> None:
    try:
        moved.rename(place)
    except OSError as error:
        raise BundleError(
            f"{moved} cannot be moved back to {place} ({error.strerror}); make room there, and move it yourself"
        ) from error

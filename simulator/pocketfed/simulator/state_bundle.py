"""The bundle in a server's state folder, whose place later releases take.

bundle/          what phones are offered; it is whole whenever it is there
.bundle.new/     a release on its way; all of it is on disk before it is moved to bundle/
.bundle.former/  what was at bundle/ until then

A process may end at any moment: the former release or the later one is whole, and `settle` sees that it is at bundle/.
"""

import os
import shutil
from dataclasses import replace
from pathlib import Path

from pocketfed.core.atomic import flush_folders
from pocketfed.core.bundle import Bundle, copy_bundle, read_bundle
from pocketfed.core.errors import BundleError, RunFolderError
from pocketfed.core.moves import moving

BUNDLE, NEW, FORMER = "bundle", ".bundle.new", ".bundle.former"
"""In the state folder, beside what a run folder has."""


def settle(state: Path) -> None:
    """Remove what a process left that ended while it installed a bundle; the former one is back if it had no heir yet.

    Raises:
        OSError: it cannot be moved back.
    """
    place, former = state / BUNDLE, state / FORMER
    if os.path.lexists(former) and not os.path.lexists(place):
        former.rename(place)
    _remove(state / NEW)
    _remove(former)


def install(found: Bundle, state: Path) -> Bundle:
    """The same bundle as that of a state folder, in place of the one that is there.

    Args:
        found: at any place; from `NEW` it is moved, from elsewhere copied.
        state: the folder, which is settled.

    Raises:
        OSError: there is no room; what was there is there.
        RunFolderError: something is at its place that is no bundle.
    """
    new, place, former = (state / name for name in (NEW, BUNDLE, FORMER))
    if os.path.lexists(place):
        try:
            read_bundle(place)
        except BundleError as error:  # it is not ours, and would be removed
            raise RunFolderError(
                f"{place} is no whole bundle ({error}); move it away, or choose another --state"
            ) from error
    try:
        whole = found if found.folder == new else copy_bundle(found, new)
        flush_folders(new)
        with moving() as move:
            if os.path.lexists(place):
                move(place, former)
            move(new, place)
    except OSError:
        _remove(new)  # which may be what the disk is full of
        raise
    _remove(former)
    return replace(whole, folder=place)


def _remove(path: Path) -> None:
    """A folder, as far as that can be; or a link to one, whose target stays."""
    if path.is_symlink():
        path.unlink()
    else:
        shutil.rmtree(path, ignore_errors=True)

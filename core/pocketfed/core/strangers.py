"""What lies in a folder and should not: what no manifest vouches for must not travel with what one does."""

import os
from collections.abc import Collection, Iterator
from pathlib import Path, PurePosixPath


def strangers(folder: Path, names: Collection[str]) -> Iterator[Path]:
    """What lies in a folder besides files of these names and the folders that these are in: links, and whatever is neither
    file nor folder, among it. Nothing inside a strange folder is looked at.

    Args:
        folder: may be missing.
        names: paths in it, with slashes.
    """
    folders = {str(parent) for name in names for parent in PurePosixPath(name).parents}
    for place, below, files in os.walk(folder):
        inside = [(name, folders, Path.is_dir) for name in below] + [
            (name, names, Path.is_file) for name in files
        ]
        for name, known, is_such in sorted(inside, key=lambda entry: entry[0]):
            path = Path(place, name)
            if path.is_symlink() or not is_such(path) or path.relative_to(folder).as_posix() not in known:
                yield path
                below[:] = [other for other in below if other != name]

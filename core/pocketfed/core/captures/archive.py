"""Arrays of an `.npz` file, each checked as it is asked for."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pocketfed.core.errors import CaptureError


@dataclass(frozen=True)
class Archive:
    """What was read of an `.npz` file.

    Attributes:
        path: for error messages.
        arrays: those of the wanted keys that the file has.
    """

    path: Path
    arrays: Mapping[str, NDArray[Any]]

    def __contains__(self, key: str) -> bool:
        return key in self.arrays

    def array(self, key: str, expected: str) -> NDArray[Any]:
        """The array `key`; `expected` describes it.

        Raises:
            CaptureError: there is none.
        """
        if key not in self.arrays:
            raise CaptureError(f"{self.path} has no key {key!r}; add it: {expected}.")
        return self.arrays[key]

    def column(self, key: str, count: int, kinds: str, expected: str) -> NDArray[Any]:
        """The array `key` if it is [count] and its `dtype.kind` is one of `kinds`, in words `expected`.

        Raises:
            CaptureError: there is none, or it is of another kind or shape.
        """
        array = self.array(key, f"{expected} [{count}]")
        self.check(key, array.dtype.kind in kinds and array.shape == (count,), f"{expected} [{count}]")
        return array

    def check(self, key: str, right: bool, expected: str) -> None:
        """Refuse the array `key`, which must be `expected`, unless it is `right`.

        Raises:
            CaptureError: with the dtype and the shape that were found.
        """
        if not right:
            found = self.arrays[key]
            raise CaptureError(
                f"{key!r} in {self.path} must be {expected}, "
                f"but is {found.dtype} {list(found.shape)} and does not fit; write the file again."
            )


def open_archive(path: Path, wanted: Collection[str]) -> Archive:
    """Read the `wanted` keys of an `.npz` file; the others are not decompressed. Pickled objects are refused.

    Raises:
        CaptureError: the file, or a wanted array in it, cannot be read.
    """
    try:
        with path.open("rb") as file:  # numpy leaves a damaged file open when it opens it itself
            archive = np.load(file, allow_pickle=False)
            if isinstance(archive, np.lib.npyio.NpzFile):
                found = [key for key in archive.files if key in wanted]
                return Archive(path, {key: _read(archive, key, path) for key in found})
    except CaptureError:
        raise
    except Exception as error:  # a damaged file makes numpy and zipfile raise almost anything
        raise _damaged(path) from error
    raise _damaged(path)  # a single array under the wrong name


def _read(archive: np.lib.npyio.NpzFile, key: str, path: Path) -> NDArray[Any]:
    try:
        array: NDArray[Any] = archive[key]
        if not isinstance(array, np.ndarray):  # numpy hands out the bytes of a member that is no array
            raise TypeError(f"{key} is no array")
    except Exception as error:  # as above; encrypted, too large for memory, pickled objects
        raise CaptureError(
            f"{key!r} in {path} cannot be read (damaged, encrypted, too large, or Python objects); "
            "save it again as a plain array."
        ) from error
    return array


def _damaged(path: Path) -> CaptureError:
    return CaptureError(f"{path} is not a readable .npz file; write it again with numpy.savez_compressed.")

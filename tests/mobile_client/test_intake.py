"""Which files are held within a quota, whatever comes and goes."""

from collections.abc import Collection
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from pocketfed.core.modality import Modality
from pocketfed.mobile_client.capture_files import CaptureFile
from pocketfed.mobile_client.decoded import Known
from pocketfed.mobile_client.intake import hold_newest

BROKEN = 0
"""The size of a file that cannot be decoded."""


class Shelf:
    """Remembers, and watches the quota."""

    def __init__(self) -> None:
        self.known: dict[CaptureFile, Known] = {}
        self.quota = 0

    @property
    def held(self) -> list[CaptureFile]:
        return [file for file, entry in self.known.items() if entry.held]

    def put(self, file: CaptureFile, captures: NDArray[Any], hold: bool) -> None:
        self.known[file] = Known(captures.nbytes, hold)
        if hold:
            assert sum(self.known[held].bytes for held in self.held) <= self.quota

    def release(self, files: Collection[CaptureFile], /) -> None:
        for file in files:
            assert self.known[file].held
            self.known[file] = Known(self.known[file].bytes, held=False)


def expected(newest: list[CaptureFile], quota: int) -> list[CaptureFile]:
    """Those that fit, up to the first that does not; broken and hopeless ones aside."""
    held, used = [], 0
    for file in newest:
        if BROKEN < file.size <= quota:
            if used + file.size > quota:
                break
            held.append(file)
            used += file.size
    return held


@given(st.lists(st.tuples(st.lists(st.integers(0, 30), max_size=12), st.integers(0, 2**12 - 1)), max_size=5))
def test_the_newest_that_fit_are_held_and_no_more_is_decoded_than_needed(
    looks: list[tuple[list[int], int]],
) -> None:
    """Each look brings files of some sizes (bytes when decoded) and takes away those that a mask says."""
    shelf = Shelf()
    shelf.quota = quota = 25
    files: list[CaptureFile] = []
    decoded: list[CaptureFile] = []

    def decode(file: CaptureFile) -> NDArray[np.uint8] | None:
        assert file not in shelf.held
        assert file not in shelf.known or shelf.known[file].bytes <= quota
        decoded.append(file)
        return None if file.size == BROKEN else np.zeros((file.size, 1), dtype=np.uint8)

    for sizes, mask in looks:
        files = [file for place, file in enumerate(files) if not mask >> place % 12 & 1]
        first = max((file.modified for file in files), default=0) + 1
        files += [
            CaptureFile(str(first + i), Modality.SOUND, size, first + i) for i, size in enumerate(sizes)
        ]
        shelf.known = {file: entry for file, entry in shelf.known.items() if file in set(files)}
        newest = files[::-1]
        hold_newest(newest, dict(shelf.known), quota, lambda _: 1, decode, shelf)
        assert sorted(shelf.held, key=newest.index) == expected(newest, quota)
        decoded.clear()
        left_out = hold_newest(newest, dict(shelf.known), quota, lambda _: 1, decode, shelf)
        assert all(file.size == BROKEN for file in decoded)
        assert left_out >= len([file for file in newest if file not in shelf.held and file.size > BROKEN])


@given(st.lists(st.integers(1, 30), max_size=12), st.integers(0, 60), st.integers(0, 60))
def test_another_quota_holds_at_the_next_look(sizes: list[int], before: int, after: int) -> None:
    newest = [CaptureFile(str(i), Modality.SOUND, size, -i) for i, size in enumerate(sizes)]
    shelf = Shelf()
    for quota in (before, after):
        shelf.quota = 10_000 if quota < before else quota
        hold_newest(
            newest,
            dict(shelf.known),
            quota,
            lambda _: 1,
            lambda file: np.zeros((file.size, 1), dtype=np.uint8),
            shelf,
        )
        assert sorted(shelf.held, key=newest.index) == expected(newest, quota)

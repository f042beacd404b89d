"""Captures refuse arrays that do not fit together."""

from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest

from pocketfed.core.captures import Captures
from pocketfed.core.modality import Modality

COUNT = 3
IDS = np.arange(COUNT, dtype=np.int64)
PHOTOS = Captures(Modality.PHOTO, np.zeros((COUNT, 4, 4, 3), dtype=np.uint8), IDS, ("a", "b", "c"), IDS, IDS)


def test_take_keeps_rows_together() -> None:
    taken = PHOTOS.take(np.array([2, 0], dtype=np.int64))
    assert len(taken) == 2
    for column in (taken.labels, taken.groups, taken.clips):
        np.testing.assert_array_equal(column, [2, 0])
    assert taken.classes == PHOTOS.classes


@pytest.mark.parametrize("name", ["labels", "groups", "clips"])
def test_columns_are_int64_and_as_long_as_the_items(name: str) -> None:
    with pytest.raises(ValueError, match=name):
        replace(PHOTOS, **cast(Any, {name: IDS[:2]}))
    with pytest.raises(ValueError, match=name):
        replace(PHOTOS, **cast(Any, {name: IDS.astype(np.int32)}))


def test_items_are_what_the_modality_says() -> None:
    with pytest.raises(ValueError, match="items"):
        replace(PHOTOS, modality=Modality.SOUND)
    with pytest.raises(ValueError, match="items"):
        replace(PHOTOS, items=PHOTOS.items.astype(np.float32))
    with pytest.raises(ValueError, match="items"):
        replace(PHOTOS, items=PHOTOS.items[0, 0, 0])

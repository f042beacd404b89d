"""The order in which a phone goes through its captures."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pocketfed.core.modality import Modality
from pocketfed.mobile_client.batches import SMALLEST_REST, Work, mixed, sequential

COUNTS = st.fixed_dictionaries({}, optional={m: st.integers(0, 90) for m in Modality})
SIZES = st.sampled_from([4, 8, 16, 32])


@given(COUNTS, SIZES, st.integers(0, 99))
def test_an_epoch_uses_each_capture_at_most_once_and_leaves_out_little(
    counts: dict[Modality, int], size: int, seed: int
) -> None:
    batches = sequential({m: Work(count) for m, count in counts.items()}, size, np.random.default_rng(seed))
    for modality, count in counts.items():
        used = [i for b in batches if modality in b.indices for i in b.indices[modality]]
        assert len(used) == len(set(used))
        assert set(used) <= set(range(count))
        assert len(used) >= (0 if count < 2 else count - SMALLEST_REST + 1)
    assert all(len(b.modalities) == 1 and 2 <= sum(map(len, b.indices.values())) <= size for b in batches)


def test_modalities_are_interleaved_evenly() -> None:
    work = {Modality.PHOTO: Work(32 * 8), Modality.SOUND: Work(32, epochs=2)}
    batches = sequential(work, 32, np.random.default_rng(0))
    places = [i for i, b in enumerate(batches) if b.modalities == (Modality.SOUND,)]
    assert places == [2, 7]
    first, second = (batches[i].indices[Modality.SOUND] for i in places)
    assert set(first) == set(second) == set(range(32))
    assert list(first) != list(second)


@given(st.integers(2, 90), st.integers(2, 90), SIZES, st.integers(0, 99))
def test_mixed_batches_hold_half_of_each_without_repetition(
    photos: int, sounds: int, size: int, seed: int
) -> None:
    work = {Modality.PHOTO: Work(photos), Modality.SOUND: Work(sounds, epochs=2)}
    batches = mixed(work, size, np.random.default_rng(seed))
    assert len(batches) == max(1, (photos + 2 * sounds) // size)
    for batch in batches:
        assert batch.modalities == (Modality.PHOTO, Modality.SOUND)
        for modality, index in batch.indices.items():
            assert len(set(index)) == len(index) <= size // 2
            assert set(index) <= set(range(work[modality].count))


def test_a_phone_with_one_modality_trains_on_it_alone_in_mixed_mode() -> None:
    batches = mixed({Modality.SOUND: Work(20)}, 8, np.random.default_rng(0))
    assert {b.modalities for b in batches} == {(Modality.SOUND,)}

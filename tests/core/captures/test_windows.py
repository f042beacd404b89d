"""Windows: nothing overlaps, nothing is lost but short tails and silence, every sound keeps one."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pocketfed.core.captures.windows import cut, window_size

LOUD = st.integers(1, 90)
SIZE = st.integers(1, 20)


def ramp(length: int) -> NDArray[np.float32]:
    """Never silent, no two samples alike."""
    return np.linspace(0.1, 0.9, length, dtype=np.float32)


@settings(deadline=None)
@given(lengths=st.lists(LOUD, min_size=1, max_size=5), size=SIZE)
def test_windows_are_the_sound_in_order(lengths: list[int], size: int) -> None:
    sounds = [ramp(length) for length in lengths]
    windows = cut(sounds, size)
    assert windows.items.shape == (len(windows.sounds), size)
    assert windows.items.dtype == np.float32
    for index, sound in enumerate(sounds):
        joined = windows.items[windows.sounds == index].reshape(-1)
        kept = min(len(joined), len(sound))
        np.testing.assert_array_equal(joined[:kept], sound[:kept])
        np.testing.assert_array_equal(joined[kept:], 0.0)
        dropped = len(sound) - kept
        assert 2 * dropped < size


@pytest.mark.parametrize(
    ("length", "expected"), [(3, 1), (8, 1), (11, 1), (12, 2), (16, 2), (19, 2), (20, 3), (24, 3)]
)
def test_a_tail_of_half_a_window_is_kept(length: int, expected: int) -> None:
    assert len(cut([ramp(length)], 8).items) == expected


def test_int16_is_scaled_as_pcm() -> None:
    sound = np.array([-32768, 0, 16384, 32767], dtype=np.int16)
    np.testing.assert_array_equal(cut([sound], 4).items, [[-1.0, 0.0, 0.5, 32767 / 32768]])


def test_floats_beyond_full_scale_are_clipped() -> None:
    sound = np.array([-3.0, 0.5, 1.2], dtype=np.float32)
    np.testing.assert_array_equal(cut([sound], 3).items, [[-1.0, 0.5, 1.0]])


@pytest.mark.parametrize(
    "quiet", [np.full(4, 9e-5, dtype=np.float32), np.full(4, -3, dtype=np.int16)], ids=["float32", "int16"]
)
def test_silent_windows_are_dropped_but_not_the_last_one(
    quiet: NDArray[np.float32] | NDArray[np.int16],
) -> None:
    loud = np.full(4, -32768 if quiet.dtype == np.int16 else -1.0, dtype=quiet.dtype)
    windows = cut([np.concatenate([quiet, loud, quiet]), np.concatenate([quiet, quiet])], 4)
    np.testing.assert_array_equal(windows.sounds, [0, 1])
    np.testing.assert_array_equal(windows.items[0], -1.0)
    assert np.abs(windows.items[1]).max() < 1e-4


def test_a_matrix_is_a_sequence_of_sounds() -> None:
    audio = np.ones((3, 10), dtype=np.int16) * 1000
    np.testing.assert_array_equal(cut(list(audio), 5).sounds, [0, 0, 1, 1, 2, 2])


def test_no_sounds_make_no_windows() -> None:
    windows = cut([], 7)
    assert windows.items.shape == (0, 7)
    assert windows.sounds.dtype == np.int64


@pytest.mark.parametrize("shape", [(0,), (2, 3)])
def test_an_empty_or_stereo_sound_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="expected"):
        cut([np.zeros(shape, dtype=np.float32)], 4)


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan"), float("inf"), 1e-9])
def test_a_window_must_have_a_length(seconds: float) -> None:
    with pytest.raises(ValueError, match="seconds"):
        window_size(seconds)


def test_seconds_become_samples() -> None:
    assert window_size(1.0) == 16_000
    assert window_size(0.5) == 8_000

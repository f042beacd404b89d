"""One sound file to one array."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from pocketfed.core.captures.decode import decode_sound
from pocketfed.core.errors import CaptureError


def sine(rate: int, seconds: float = 0.5, hertz: float = 440.0) -> NDArray[np.float32]:
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(round(rate * seconds)) / rate)).astype(np.float32)


def test_sixteen_kilohertz_is_read_exactly(tmp_path: Path) -> None:
    pcm = np.array([-32768, -1, 0, 1, 32767], dtype=np.int16)
    soundfile.write(tmp_path / "a.wav", pcm, 16_000, subtype="PCM_16")
    sound = decode_sound(tmp_path / "a.wav")
    assert sound.dtype == np.float32
    np.testing.assert_array_equal(sound, pcm / np.float32(32768))


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 44_100, 48_000, 96_000])
@pytest.mark.parametrize("name", ["a.wav", "a.flac"])
def test_any_rate_becomes_sixteen_kilohertz(tmp_path: Path, name: str, rate: int) -> None:
    soundfile.write(tmp_path / name, sine(rate), rate)
    sound = decode_sound(tmp_path / name)
    assert abs(len(sound) - 8_000) <= 1
    np.testing.assert_allclose(sound[500:7_500], sine(16_000)[500:7_500], atol=0.01)


def test_stereo_is_averaged(tmp_path: Path) -> None:
    left = sine(44_100)
    soundfile.write(tmp_path / "a.wav", np.stack([left, 0.5 * left], axis=1), 44_100)
    np.testing.assert_allclose(
        decode_sound(tmp_path / "a.wav")[500:7_500], 0.75 * sine(16_000)[500:7_500], atol=0.01
    )


def test_ogg_is_read(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.ogg", sine(48_000), 48_000)
    sound = decode_sound(tmp_path / "a.ogg")
    assert np.corrcoef(sound[500:7_500], sine(16_000)[500:7_500])[0, 1] > 0.99


def test_a_rate_without_a_common_divisor_is_near_enough(tmp_path: Path) -> None:
    """22254 Hz, of old Macintoshes: exactly, it would take a filter of 8000 phases."""
    soundfile.write(tmp_path / "a.wav", sine(22_254), 22_254)
    sound = decode_sound(tmp_path / "a.wav")
    assert abs(len(sound) - 8_000) <= 8
    peak = np.argmax(np.abs(np.fft.rfft(sound, 16_000)))
    assert abs(int(peak) - 440) <= 1


def test_floats_beyond_full_scale_are_clipped(tmp_path: Path) -> None:
    loud = np.array([2.0, -2.0, 0.5], dtype=np.float32)
    soundfile.write(tmp_path / "a.wav", loud, 16_000, subtype="FLOAT")
    np.testing.assert_array_equal(decode_sound(tmp_path / "a.wav"), [1.0, -1.0, 0.5])


def test_a_sound_without_samples_is_refused(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(0, dtype=np.float32), 16_000)
    with pytest.raises(CaptureError, match=r"a\.wav is empty"):
        decode_sound(tmp_path / "a.wav")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_no_sound_are_refused(tmp_path: Path, value: float) -> None:
    soundfile.write(
        tmp_path / "a.wav", np.array([0.0, value, 0.0], dtype=np.float32), 44_100, subtype="FLOAT"
    )
    with pytest.raises(CaptureError, match=r"a\.wav is damaged \(it has values that are not finite\)"):
        decode_sound(tmp_path / "a.wav")


def test_an_absurd_rate_is_refused(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(10, dtype=np.float32), 10)
    with pytest.raises(CaptureError, match=r"a\.wav is sampled at 10 Hz"):
        decode_sound(tmp_path / "a.wav")


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.ogg"])
@pytest.mark.parametrize("content", [b"", b"not a sound"])
def test_damaged_files_are_refused(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CaptureError, match=f"{name} is damaged or not a sound"):
        decode_sound(tmp_path / name)

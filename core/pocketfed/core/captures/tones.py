"""The classes of the embedded sounds: one event each, of any pitch and length."""

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from pocketfed.core.captures.captures import SAMPLE_RATE

Wave = NDArray[np.float64]

HARMONICS = (1.0, 0.5, 0.3)
"""Amplitudes of a voice's partials."""


def _sweep(pitch: Wave, rng: np.random.Generator) -> Wave:
    """A voice whose pitch (Hz, [samples]) changes over time."""
    phase = 2 * np.pi * np.cumsum(pitch) / SAMPLE_RATE + rng.uniform(0, 2 * np.pi)
    return sum((level * np.sin((k + 1) * phase) for k, level in enumerate(HARMONICS)), np.zeros_like(phase))


def _rising(t: Wave, pitch: float, rng: np.random.Generator) -> Wave:
    return _sweep(pitch * 2 ** (rng.uniform(0.8, 1.6) * (t / t[-1] - 0.5)), rng)


def _falling(t: Wave, pitch: float, rng: np.random.Generator) -> Wave:
    return _sweep(pitch * 2 ** (rng.uniform(0.8, 1.6) * (0.5 - t / t[-1])), rng)


def _steady(t: Wave, pitch: float, rng: np.random.Generator) -> Wave:
    return _sweep(np.full_like(t, pitch), rng)


def _tremolo(t: Wave, pitch: float, rng: np.random.Generator) -> Wave:
    beat = 0.5 + 0.5 * np.sin(2 * np.pi * rng.uniform(7, 14) * t + rng.uniform(0, 2 * np.pi))
    return _sweep(np.full_like(t, pitch), rng) * beat


def _vibrato(t: Wave, pitch: float, rng: np.random.Generator) -> Wave:
    bend = np.sin(2 * np.pi * rng.uniform(4, 8) * t + rng.uniform(0, 2 * np.pi))
    return _sweep(pitch * 2 ** (0.25 * bend), rng)


def _siren(t: Wave, pitch: float, rng: np.random.Generator) -> Wave:
    """Two notes in turn, a fifth apart."""
    high = np.sin(2 * np.pi * rng.uniform(2.5, 4.5) * t + rng.uniform(0, 2 * np.pi)) > 0
    return _sweep(pitch * np.where(high, 1.225, 0.816), rng)


def _clicks(t: Wave, pitch: float, rng: np.random.Generator) -> Wave:
    """Short rings at `pitch`, many times a second."""
    since = np.mod(t * rng.uniform(6, 14) + rng.uniform(), 1.0) / 10  # seconds, roughly, since the last click
    return np.sin(2 * np.pi * pitch * since) * np.exp(-since * 250)


def _hiss(t: Wave, pitch: float, rng: np.random.Generator) -> Wave:
    """Noise in a band around `pitch`."""
    spectrum = np.fft.rfft(rng.standard_normal(len(t)))
    octaves = np.log2(np.maximum(np.fft.rfftfreq(len(t), 1 / SAMPLE_RATE), 1.0) / pitch)
    return np.fft.irfft(spectrum * np.exp(-0.5 * (octaves / 0.35) ** 2), len(t))


EVENTS: Mapping[str, Callable[[Wave, float, np.random.Generator], Wave]] = {
    "rising": _rising,
    "falling": _falling,
    "steady": _steady,
    "tremolo": _tremolo,
    "vibrato": _vibrato,
    "siren": _siren,
    "clicks": _clicks,
    "hiss": _hiss,
}
"""Class name to `(t, pitch, rng) -> wave`: t float64 [samples] in seconds from 0, pitch in Hz, any level."""

"""Captures that the package makes itself, for a demo without files or a network.

Every capture has a pseudo maker (its group), who has a style: a tint and a texture, or a microphone and a
room. A style says nothing about the class. Everything else (place, size, angle, colours; pitch, onset,
length, level) is drawn per capture, over a background strong enough that raw pixels or spectra do not give
the class away.
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pocketfed.core.captures.captures import SAMPLE_RATE, Captures, Split
from pocketfed.core.captures.shapes import SHAPES
from pocketfed.core.captures.splitting import hold_out
from pocketfed.core.captures.tones import EVENTS
from pocketfed.core.captures.windows import window_size
from pocketfed.core.modality import Modality

MAKERS = 12
"""How many pseudo makers there are."""

OVERSAMPLING = 3
"""Shapes are drawn this many times larger and averaged down, which antialiases them."""


def embedded_photos(count: int, side: int = 32, seed: int = 0) -> Split:
    """Draw photos of simple shapes, as many of each class in `shapes.SHAPES`, one class per photo.

    Args:
        count: photos on both sides together; about 20 % of each class are the test side.
        side: pixels.
        seed: the same seed gives identical arrays; photo i does not depend on `count`.

    Raises:
        ValueError: fewer than two photos a class, or `side` under 8.
    """
    if side < 8:
        raise ValueError(f"side is {side}, expected at least 8 pixels")
    labels, makers = _cast(count, len(SHAPES))
    items = np.empty((count, side, side, 3), dtype=np.uint8)
    for index, shape in enumerate(labels):
        items[index] = _photo(tuple(SHAPES)[shape], side, _style(seed, makers[index]), _rng(seed, index))
    return _split(Modality.PHOTO, items, labels, tuple(SHAPES), makers, seed)


def embedded_sounds(count: int, seconds: float = 1.0, seed: int = 0) -> Split:
    """Synthesise sounds, as many of each class in `tones.EVENTS`, one event per sound.

    Args:
        count: sounds on both sides together; about 20 % of each class are the test side. Each is a clip.
        seconds: length of every sound.
        seed: the same seed gives identical arrays; sound i does not depend on `count`.

    Raises:
        ValueError: fewer than two sounds a class, or `seconds` under 0.25.
    """
    size = window_size(seconds)
    if seconds < 0.25:
        raise ValueError(f"seconds is {seconds}, expected at least 0.25 for an event to fit in")
    labels, makers = _cast(count, len(EVENTS))
    items = np.empty((count, size), dtype=np.float32)
    for index, event in enumerate(labels):
        items[index] = _sound(tuple(EVENTS)[event], size, _style(seed, makers[index]), _rng(seed, index))
    return _split(Modality.SOUND, items, labels, tuple(EVENTS), makers, seed)


def _photo(shape: str, side: int, style: np.random.Generator, rng: np.random.Generator) -> NDArray[np.uint8]:
    """One shape over a texture; uint8 [side, side, 3]."""
    tint = style.uniform(0.9, 1.1, size=3)
    grain = style.integers(3, 9)  # cells of the texture along a side

    fine = side * OVERSAMPLING
    at = (np.arange(fine) + 0.5) / fine  # [fine] in (0, 1)
    angle, radius = rng.uniform(0, 2 * np.pi), rng.uniform(0.28, 0.42)
    x, y = at[None, :] - rng.uniform(0.4, 0.6), rng.uniform(0.4, 0.6) - at[:, None]
    u = (np.cos(angle) * x + np.sin(angle) * y) / radius
    v = (np.cos(angle) * y - np.sin(angle) * x) / radius
    inside = SHAPES[shape](u, v).reshape(side, OVERSAMPLING, side, OVERSAMPLING)
    cover = inside.mean(axis=(1, 3))[..., None]  # [side, side, 1] in [0, 1]

    ground = rng.uniform(0.2, 0.8)
    contrast = rng.uniform(0.35, 0.55) * (1 if ground < 0.5 else -1)
    colours = np.clip(np.stack([[ground], [ground + contrast]]) + rng.uniform(-0.05, 0.05, size=(2, 3)), 0, 1)
    texture = _texture(side, int(grain), rng) * rng.uniform(0.05, 0.14)
    noise = rng.normal(0, 0.03, size=(side, side, 3))
    photo = (colours[0] * (1 - cover) + colours[1] * cover + texture[..., None]) * tint + noise
    return np.asarray((photo.clip(0, 1) * 255).round(), dtype=np.uint8)


def _texture(side: int, cells: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Smooth noise, `cells` draws from a standard normal along a side; float32 [side, side]."""
    coarse = Image.fromarray(rng.standard_normal((cells, cells)).astype(np.float32))
    return np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC))


def _sound(
    event: str, size: int, style: np.random.Generator, rng: np.random.Generator
) -> NDArray[np.float32]:
    """One event over a room's noise, through a maker's microphone; float32 [size]."""
    colour, room = style.uniform(0.0, 1.0), style.uniform(0.04, 0.12)
    tilt = style.uniform(-0.4, 0.4)

    length = round(size * rng.uniform(0.55, 0.95))
    start = rng.integers(0, size - length + 1)
    pitch = 2 ** rng.uniform(np.log2(250), np.log2(1500))
    wave = EVENTS[event](np.arange(length) / SAMPLE_RATE, float(pitch), rng)
    fade = np.clip(np.minimum(np.arange(length), np.arange(length)[::-1]) / (0.01 * SAMPLE_RATE), 0, 1)
    sound = np.zeros(size)
    sound[start : start + length] = fade * wave / np.abs(wave).max()

    sound = sound * rng.uniform(0.3, 0.9) + room * _shaped(rng.standard_normal(size), -colour)
    sound = _shaped(sound, tilt)
    return np.asarray(sound * (rng.uniform(0.4, 0.9) / np.abs(sound).max()), dtype=np.float32)


def _shaped(sound: NDArray[np.float64], slope: float) -> NDArray[np.float64]:
    """`sound` with its spectrum multiplied by (frequency / 1 kHz) ** slope, flat below 100 Hz."""
    frequency = np.maximum(np.fft.rfftfreq(len(sound), 1 / SAMPLE_RATE), 100.0)
    return np.fft.irfft(np.fft.rfft(sound) * (frequency / 1000.0) ** slope, len(sound))


def _cast(count: int, classes: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Labels and makers, both int64 [count]: classes in turn, and each maker one round of classes in turn."""
    if count < 2 * classes:
        raise ValueError(f"count is {count}, expected at least {2 * classes}: two captures for each class")
    index = np.arange(count, dtype=np.int64)
    return index % classes, index // classes % MAKERS


def _style(seed: int, maker: np.int64) -> np.random.Generator:
    """The source of a maker's style, the same for each of the maker's captures."""
    return np.random.default_rng([seed, 0, int(maker)])


def _rng(seed: int, index: int) -> np.random.Generator:
    return np.random.default_rng([seed, 1, index])


def _split(
    modality: Modality,
    items: NDArray[np.uint8] | NDArray[np.float32],
    labels: NDArray[np.int64],
    classes: tuple[str, ...],
    makers: NDArray[np.int64],
    seed: int,
) -> Split:
    """Every capture its own clip; makers are on both sides, as the owners of phones are."""
    count = len(items)
    every = Captures(modality, items, labels, classes, makers, np.arange(count, dtype=np.int64))
    test = hold_out(labels, np.full(count, -1, dtype=np.int64), seed)
    return Split(every.take(np.flatnonzero(~test)), every.take(np.flatnonzero(test)))

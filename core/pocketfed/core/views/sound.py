"""Views of sounds: gain, coloured noise, time shift and stretch, frequency shift, time and frequency masks.

Noise is added to the power of each mel band, where independent sounds add up, so it costs 64 numbers and not
16,000. The spectrogram is resampled to 32 x 48 and repeated to three channels, so that sounds enter the very same
first convolution as photos: one trunk and no weights of their own. FSSUAVL's body does not say how it feeds
sounds; this is our choice, as are all ranges.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from pocketfed.core.views.chance import between, happens
from pocketfed.core.views.log_mel import BANDS, FLOOR, frames, mel_power
from pocketfed.core.views.resample import centres, interpolation, resample

CENTRE, SPREAD = -5.5, 4.5
"""ln(power) of ordinary recordings; subtracted and divided before the encoder."""

COLOURS = 6
"""Levels, evenly spaced over the bands, between which the colour of the noise is interpolated."""


@dataclass(frozen=True)
class SoundView:
    """float32 PCM [batch, samples] in [-1, 1] at 16 kHz -> float32 [batch, 3, height, width].

    Attributes:
        samples: of one capture; a multiple of 160.
        height, width: of the encoder's input: bands and frames after resampling.
        gain: largest change of level, in nats of power (0.5 is 2 dB).
        noisy: probability that noise is added.
        quietest, loudest: level of the noise, in nats of power relative to the capture's mean.
        colour: largest deviation of the noise's colour from flat, in nats.
        shift: largest shift in time, as a share of the capture; the edge is repeated.
        smallest: shortest stretch of time, and of frequency, as a share of the whole.
        frequency_mask, time_mask: widest mask, as a share of the axis.
    """

    samples: int = 16_000
    height: int = 32
    width: int = 48
    gain: float = 0.5
    noisy: float = 0.5
    quietest: float = -12.0
    loudest: float = -4.0
    colour: float = 1.0
    shift: float = 0.08
    smallest: float = 0.9
    frequency_mask: float = 0.08
    time_mask: float = 0.08

    @property
    def noise(self) -> tuple[str, ...]:
        """One number each."""
        colours = tuple(f"colour {i}" for i in range(COLOURS))
        return (
            "gain", "noisy", "level", *colours, "shift", "duration", "range", "pitch",
            "band mask width", "band mask place", "time mask width", "time mask place",
        )  # fmt: skip

    @property
    def capture_shape(self) -> tuple[int, ...]:
        """(samples,)."""
        return (self.samples,)

    def front(self, captures: Tensor) -> Tensor:
        """PCM [batch, samples] -> mel power, float32 [batch, frames, 64]."""
        return mel_power(captures)

    def plain(self, base: Tensor) -> Tensor:
        """The whole spectrogram, resampled: [batch, 3, height, width]."""
        n, steps = base.shape[0], frames(self.samples)
        rows = interpolation(centres(self.height) * BANDS - 0.5, BANDS).expand(n, -1, -1)
        columns = interpolation(centres(self.width) * steps - 0.5, steps).expand(n, -1, -1)
        return self._to_input(base, rows, columns)

    def draw(self, base: Tensor, noise: Tensor) -> Tensor:
        """`base` float32 [batch, frames, 64], `noise` float32 [batch, 17] -> [batch, 3, height, width]."""
        values = {name: noise[:, i : i + 1] for i, name in enumerate(self.noise)}  # [batch, 1] each
        first = self.noise.index("colour 0")
        power = self._mix(base, values, noise[:, first : first + COLOURS])

        steps = frames(self.samples)
        duration = between(values["duration"], self.smallest, 1.0)
        start = (1.0 - duration) * 0.5 + between(values["shift"], -self.shift, self.shift)
        extent = between(values["range"], self.smallest, 1.0)
        lowest = (1.0 - extent) * values["pitch"]
        columns = interpolation((start + centres(self.width) * duration) * steps - 0.5, steps)
        rows = interpolation((lowest + centres(self.height) * extent) * BANDS - 0.5, BANDS)
        view = self._to_input(power, rows, columns)

        bands = _mask(values["band mask width"], values["band mask place"], self.frequency_mask, self.height)
        times = _mask(values["time mask width"], values["time mask place"], self.time_mask, self.width)
        # A masked place takes the value 0, an ordinary level after normalisation.
        return view * (bands.unsqueeze(2) * times.unsqueeze(1)).unsqueeze(1)

    def _mix(self, power: Tensor, values: dict[str, Tensor], colours: Tensor) -> Tensor:
        """Change the gain and add coloured noise; [batch, frames, 64] power."""
        gain = torch.exp(between(values["gain"], -self.gain, self.gain))  # [n, 1]
        mean = power.mean((1, 2)).unsqueeze(1)  # [n, 1]
        place = centres(BANDS) * COLOURS - 0.5
        spread = interpolation(place, COLOURS).squeeze(0)  # [64, 6]
        colour = torch.mm(between(colours, -self.colour, self.colour), spread.t())  # [n, 64]
        level = between(values["level"], self.quietest, self.loudest)
        noise = mean * torch.exp(level + colour) * happens(values["noisy"], self.noisy)  # [n, 64]
        return (power + noise.unsqueeze(1)) * gain.unsqueeze(2)

    def _to_input(self, power: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        """Logarithm, normalisation, resampling, three channels: [n, t, 64] -> [n, 3, height, width]."""
        level = (torch.log(power + FLOOR) - CENTRE) * (1.0 / SPREAD)
        image = level.transpose(1, 2).unsqueeze(1)  # [n, 1, 64, t]
        return resample(image, rows, columns).expand(-1, 3, -1, -1)


def _mask(width: Tensor, place: Tensor, widest: float, size: int) -> Tensor:
    """float32 [n, size]: 0 inside one stretch of at most `widest` of the axis, 1 outside, sloping over one pixel."""
    length = width * (widest * size)
    middle = place * (size - length) + length * 0.5
    distance = (torch.arange(size, dtype=torch.float32) + 0.5 - middle).abs()
    return torch.clamp(distance - length * 0.5 + 0.5, 0.0, 1.0)

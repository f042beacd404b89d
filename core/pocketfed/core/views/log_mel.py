"""The mel front end as two matrix products: framing is reshaping, the Fourier transform is a matrix.

Equal to torchaudio's MelSpectrogram (power 2, HTK scale, no area norm, centre=False) with a Hann window of 25 ms
zero-padded to 512 points, a hop of 10 ms and 64 bands from 50 Hz to 8 kHz at 16 kHz.
"""

import math

import torch
import torchaudio.functional
from torch import Tensor

from pocketfed.core.captures.captures import SAMPLE_RATE

WINDOW, HOP, POINTS = 400, 160, 512
BANDS, LOWEST, HIGHEST = 64, 50.0, 8000.0
FLOOR = 1e-5
"""Added to the power before the logarithm."""


def frames(samples: int) -> int:
    """How many frames `mel_power` makes of a sound; `samples` is a multiple of 160, at least 480."""
    return samples // HOP - 2


def fourier() -> Tensor:
    """float32 [400, 514]: windowed cosines, then windowed sines, of the 257 non-negative frequencies."""
    window = torch.hann_window(WINDOW, periodic=True, dtype=torch.float64)
    time = torch.arange(WINDOW, dtype=torch.float64)
    angle = 2 * math.pi / POINTS * torch.outer(time, torch.arange(POINTS // 2 + 1, dtype=torch.float64))
    return (torch.cat([torch.cos(angle), torch.sin(angle)], 1) * window.unsqueeze(1)).float()


def mel_bank() -> Tensor:
    """float32 [514, 64]: the triangular bands, once for the squared cosines and once for the squared sines."""
    bank = torchaudio.functional.melscale_fbanks(
        POINTS // 2 + 1, LOWEST, HIGHEST, BANDS, SAMPLE_RATE, norm=None, mel_scale="htk"
    )
    return torch.cat([bank, bank])


FOURIER, MEL_BANK = fourier(), mel_bank()
"""Made once, outside of every trace: a program holds them as the constants that they are."""


def mel_power(pcm: Tensor) -> Tensor:
    """float32 [batch, samples] in [-1, 1] -> float32 [batch, frames, 64], power."""
    batch, samples = pcm.shape
    steps = pcm.reshape(batch, samples // HOP, HOP)  # [b, t + 2, 160]
    cut = torch.cat([steps[:, :-2], steps[:, 1:-1], steps[:, 2:, : WINDOW - 2 * HOP]], 2)  # [b, t, 400]
    spectrum = torch.mm(cut.reshape(-1, WINDOW), FOURIER)  # [b * t, 514]
    return torch.mm(spectrum * spectrum, MEL_BANK).reshape(batch, -1, BANDS)

"""The mel front end against torchaudio, and what each random number does to a sound."""

import numpy as np
import pytest
import torch
import torchaudio
from hypothesis import given, settings
from hypothesis import strategies as st

from pocketfed.core.views import SoundView
from pocketfed.core.views.log_mel import frames, mel_power

VIEW = SoundView(samples=8000)
NEUTRAL = {
    "gain": 0.5, "noisy": 0.9, "level": 0.5, "shift": 0.5, "duration": 1.0, "range": 1.0, "pitch": 0.0,
    "band mask width": 0.0, "band mask place": 0.5, "time mask width": 0.0, "time mask place": 0.5,
}  # fmt: skip


def sound(seed: int = 0, count: int = 1) -> torch.Tensor:
    return 0.1 * torch.randn(count, 8000, generator=torch.Generator().manual_seed(seed))


def draw(pcm: torch.Tensor, **changes: float) -> torch.Tensor:
    """One view, [3, 32, 48], with neutral numbers but for `changes`."""
    values = {**NEUTRAL, **changes}
    noise = torch.tensor([[values.get(name, 0.5) for name in VIEW.noise]])
    return VIEW.draw(VIEW.front(pcm), noise)[0]


@settings(deadline=None, max_examples=10)
@given(st.integers(3, 60), st.integers(0, 100))
def test_mel_power_equals_torchaudio(steps: int, seed: int) -> None:
    pcm = 0.3 * torch.randn(2, 160 * steps, generator=torch.Generator().manual_seed(seed))
    reference = torchaudio.transforms.MelSpectrogram(
        16_000,
        n_fft=512,
        win_length=400,
        hop_length=160,
        f_min=50,
        f_max=8000,
        n_mels=64,
        center=False,
        norm=None,
    )
    # torchaudio puts the 400-point window in the middle of 512 points.
    expected = reference(torch.nn.functional.pad(pcm, (56, 56))).transpose(1, 2)[:, : frames(160 * steps)]
    assert torch.allclose(mel_power(pcm), expected, rtol=2e-3, atol=1e-4)


def test_neutral_numbers_give_the_plain_view() -> None:
    assert torch.allclose(draw(sound()), VIEW.plain(VIEW.front(sound()))[0], atol=1e-4)


def test_the_three_channels_are_one_spectrogram() -> None:
    view = draw(sound(), gain=0.7, noisy=0.1)
    assert torch.equal(view[0], view[1])
    assert torch.equal(view[0], view[2])


def test_gain_adds_to_the_logarithm() -> None:
    louder, plain = draw(sound(), gain=1.0), draw(sound())
    assert torch.allclose(louder - plain, torch.tensor(VIEW.gain / 4.5), atol=2e-3)


def test_noise_lifts_quiet_bands_most() -> None:
    tone = 0.3 * torch.sin(2 * torch.pi * 1000 / 16_000 * torch.arange(8000)).unsqueeze(0)
    lift = (draw(tone, noisy=0.1, level=0.8) - draw(tone)).mean((0, 2))
    loudest = int(draw(tone).mean((0, 2)).argmax())
    assert lift.min() >= -1e-5
    assert lift[loudest] < 0.2 * lift.max()


def test_shift_moves_the_sound_in_time() -> None:
    click = torch.zeros(1, 8000)
    click[0, 4000:4200] = 0.5
    places = [int(draw(click, shift=shift)[0].sum(0).argmax()) for shift in (0.0, 0.5, 1.0)]
    assert places[0] > places[1] > places[2]


@pytest.mark.parametrize(("mask", "axis"), [("band", 1), ("time", 0)])
def test_masks_blank_one_stretch(mask: str, axis: int) -> None:
    changes = {f"{mask} mask width": 1.0}
    blank = (draw(sound(), **changes)[0].abs() < 1e-6).all(axis)
    inside = torch.nonzero(blank).flatten()
    assert 2 <= len(inside) <= 6
    assert int(inside[-1] - inside[0]) == len(inside) - 1


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10_000))
def test_any_numbers_give_finite_views_and_treat_each_sound_alone(seed: int) -> None:
    rng = np.random.default_rng(seed)
    pcm = torch.from_numpy(rng.uniform(-1, 1, (3, 8000)).astype(np.float32))
    pcm[1] = 0  # digital silence
    noise = torch.from_numpy(rng.random((3, len(VIEW.noise)), dtype=np.float32))
    views = VIEW.draw(VIEW.front(pcm), noise)
    assert views.shape == (3, 3, 32, 48)
    assert torch.isfinite(views).all()
    alone = VIEW.draw(VIEW.front(pcm[2:]), noise[2:])
    assert torch.allclose(alone[0], views[2], atol=1e-4)

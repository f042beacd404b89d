"""Views of photos against torchvision and against their definition."""

import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as reference
from hypothesis import given, settings
from hypothesis import strategies as st

from pocketfed.core.views import PhotoView
from pocketfed.core.views.photo import DEVIATION, MEAN

VIEW = PhotoView(side=16)
NEUTRAL = {
    "area": 1.0 - 1e-7, "aspect": (1 - 0.75**0.5) / ((4 / 3) ** 0.5 - 0.75**0.5), "top": 0.0, "left": 0.0,
    "flip": 0.9, "jitter": 0.95, "brightness": 0.5, "contrast": 0.5, "saturation": 0.5, "hue": 0.5, "grey": 0.9,
}  # fmt: skip


def photo(seed: int = 0, low: int = 60, high: int = 190) -> torch.Tensor:
    """uint8 [1, 16, 16, 3], away from the ends of the range so that nothing is clamped."""
    return torch.randint(
        low, high, (1, 16, 16, 3), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8
    )


def draw(captures: torch.Tensor, **changes: float) -> torch.Tensor:
    """One view with neutral numbers but for `changes`, back in pixels: float32 [3, 16, 16] in [0, 1]."""
    values = {**NEUTRAL, **changes}
    noise = torch.tensor([[values[name] for name in VIEW.noise]])
    view = VIEW.draw(VIEW.front(captures), noise)[0]
    return view * DEVIATION + MEAN


def pixels(captures: torch.Tensor) -> torch.Tensor:
    return captures[0].permute(2, 0, 1).float() / 255


def test_neutral_numbers_leave_the_photo_alone() -> None:
    assert torch.allclose(draw(photo()), pixels(photo()), atol=2e-4)


def test_flip() -> None:
    assert torch.allclose(draw(photo(), flip=0.1), pixels(photo()).flip(2), atol=2e-4)


def test_greyscale_is_luma_in_all_channels() -> None:
    grey = draw(photo(), grey=0.1)
    expected = (pixels(photo()) * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(0)
    assert torch.allclose(grey, expected.expand(3, -1, -1), atol=5e-4)


@pytest.mark.parametrize("noise", [0.1, 0.4, 0.8])
@pytest.mark.parametrize("change", ["brightness", "contrast", "saturation"])
def test_colour_changes_equal_torchvisions(change: str, noise: float) -> None:
    captures = photo(low=90, high=150)
    factor = 0.6 + 0.8 * noise
    adjust = getattr(reference, f"adjust_{change}")
    expected = adjust(pixels(captures), factor)
    assert torch.allclose(draw(captures, jitter=0.1, **{change: noise}), expected, atol=2e-3)


def test_hue_turns_chroma_and_keeps_luma() -> None:
    luma = torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)
    captures = photo(low=100, high=150)
    turned = draw(captures, jitter=0.1, hue=1.0)
    assert torch.allclose((turned * luma).sum(0), (pixels(captures) * luma).sum(0), atol=1e-3)
    to_yiq = torch.tensor([[0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
    before = torch.view_as_complex((to_yiq @ pixels(captures).reshape(3, -1)).t().contiguous())
    after = torch.view_as_complex((to_yiq @ turned.reshape(3, -1)).t().contiguous())
    assert torch.allclose((after / before).angle(), torch.tensor(2 * torch.pi * 0.1), atol=2e-2)


def test_crop_equals_torchvisions_resized_crop() -> None:
    """A quarter of the area, square, at the top left corner: an 8 x 8 crop, enlarged twice."""
    share = (0.25 - 0.2) / 0.8
    cropped = draw(photo(), area=share, top=0.0, left=0.0)
    expected = reference.resized_crop(pixels(photo()), 0, 0, 8, 8, [16, 16], antialias=False)
    assert torch.allclose(
        cropped[:, :15, :15], expected[:, :15, :15], atol=2e-3
    )  # beyond, torchvision repeats


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10_000))
def test_any_numbers_give_finite_pixels_and_treat_each_photo_alone(seed: int) -> None:
    rng = np.random.default_rng(seed)
    captures = torch.from_numpy(rng.integers(0, 256, (5, 16, 16, 3), dtype=np.uint8))
    noise = torch.from_numpy(rng.random((5, len(VIEW.noise)), dtype=np.float32))
    views = VIEW.draw(VIEW.front(captures), noise)
    assert views.shape == (5, 3, 16, 16)
    shown = views * DEVIATION + MEAN
    assert float(shown.min()) >= -1e-5
    assert float(shown.max()) <= 1 + 1e-5
    alone = VIEW.draw(VIEW.front(captures[2:3]), noise[2:3])
    assert torch.allclose(alone[0], views[2], atol=1e-5)

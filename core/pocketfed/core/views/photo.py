"""Views of photos: random resized crop, flip, colour jitter and greyscale, as SimCLR draws them.

Every colour change but the clamp is linear in the pixel: with L the projection on luma, brightness b, contrast c,
saturation s, hue angle a, and k = 0 for greyscale, else 1,

    pixel' = c b (L + k s (cos a (I - L) + sin a J)) pixel + (1 - c) b mean_luma

so one 3 x 3 matrix per photo does them all (I - L keeps only chroma; J turns chroma by a right angle in YIQ).
Unlike torchvision, values are clamped once, at the end. The ranges are those of SimCLR's recipe for small images;
the crop keeps the photo's aspect within 3/4 to 4/3.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pocketfed.core.views.chance import between, happens
from pocketfed.core.views.resample import centres, interpolation, resample

LUMA = torch.tensor([0.299, 0.587, 0.114])
MEAN, DEVIATION = 0.45, 0.25
"""Pixels in [0, 1] are shifted and scaled by these before they enter the encoder."""


def _chroma_turn() -> Tensor:
    """J, float32 [3, 3]: a right-angled turn of the chroma plane that leaves luma alone."""
    to_yiq = torch.tensor([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
    turn = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, -1.0], [0.0, 1.0, 0.0]])
    chroma: Tensor = torch.linalg.inv(to_yiq) @ turn @ to_yiq
    return chroma


@dataclass(frozen=True)
class PhotoView:
    """uint8 [batch, side, side, 3] -> float32 [batch, 3, side, side].

    Attributes:
        side: pixels.
        smallest_area: the smallest crop, as a share of the photo.
        brightness, contrast, saturation: each factor is drawn from [1 - x, 1 + x).
        hue: largest turn, as a share of the colour circle.
        jitter: probability of any colour change; grey: probability of greyscale.
    """

    side: int = 32
    smallest_area: float = 0.2
    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.4
    hue: float = 0.1
    jitter: float = 0.8
    grey: float = 0.2

    @property
    def noise(self) -> tuple[str, ...]:
        """One number each."""
        return (
            "area", "aspect", "top", "left", "flip",
            "jitter", "brightness", "contrast", "saturation", "hue", "grey",
        )  # fmt: skip

    @property
    def capture_shape(self) -> tuple[int, ...]:
        """(side, side, 3)."""
        return (self.side, self.side, 3)

    def front(self, captures: Tensor) -> Tensor:
        """uint8 [batch, side, side, 3] -> float32 [batch, 3, side, side] in [0, 1]."""
        return captures.to(torch.float32).permute(0, 3, 1, 2) * (1.0 / 255.0)

    def plain(self, base: Tensor) -> Tensor:
        """The whole photo, normalised."""
        return (base - MEAN) * (1.0 / DEVIATION)

    def draw(self, base: Tensor, noise: Tensor) -> Tensor:
        """`base` float32 [batch, 3, side, side], `noise` float32 [batch, 11] -> [batch, 3, side, side]."""
        values = {name: noise[:, i : i + 1] for i, name in enumerate(self.noise)}  # [batch, 1] each
        cropped = resample(base, *self._crop(values))
        return self.plain(torch.clamp(self._colour(cropped, values), 0.0, 1.0))

    def _crop(self, values: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Interpolation matrices of the rows and the columns, float32 [batch, side, side] each."""
        # Torchvision draws the aspect evenly in its logarithm; over so narrow a range even is nearly the same.
        stretch = between(values["aspect"], math.sqrt(3 / 4), math.sqrt(4 / 3))
        length = torch.sqrt(between(values["area"], self.smallest_area, 1.0))
        height = torch.clamp(length * stretch, 0.0, 1.0)
        width = torch.clamp(length / stretch, 0.0, 1.0)
        flip = happens(values["flip"], 0.5)
        place = centres(self.side)
        down = values["top"] * (1.0 - height) + place * height
        across = values["left"] * (1.0 - width) + (place + flip * (1.0 - 2.0 * place)) * width
        rows = interpolation(down * self.side - 0.5, self.side)
        return rows, interpolation(across * self.side - 0.5, self.side)

    def _colour(self, photos: Tensor, values: dict[str, Tensor]) -> Tensor:
        """Brightness, contrast, saturation, hue and greyscale in one matrix a photo; float32 [batch, 3, h, w]."""
        n, _, h, w = photos.shape
        change = happens(values["jitter"], self.jitter)
        bright = 1.0 + change * between(values["brightness"], -self.brightness, self.brightness)
        contrast = 1.0 + change * between(values["contrast"], -self.contrast, self.contrast)
        saturation = 1.0 + change * between(values["saturation"], -self.saturation, self.saturation)
        # The angle's tangent of the half is drawn evenly: cosine and sine follow without trigonometry.
        limit = math.tan(math.pi * self.hue)
        half = change * between(values["hue"], -limit, limit)
        scale = 1.0 / (1.0 + half * half)
        colourful = saturation * (1.0 - happens(values["grey"], self.grey))
        along = colourful * (1.0 - half * half) * scale  # k s cos a, [n, 1]
        across = colourful * 2.0 * half * scale  # k s sin a, [n, 1]

        luma = LUMA.repeat(3, 1)  # L, [3, 3]
        parts = torch.stack([luma, torch.eye(3) - luma, _chroma_turn()]).reshape(3, 9)
        amounts = torch.cat([torch.ones_like(along), along, across], 1)  # [n, 3]
        matrices = (torch.mm(amounts, parts) * (contrast * bright)).reshape(n, 3, 3)
        pixels = photos.reshape(n, 3, h * w)
        mean_luma = (pixels.mean(2) * LUMA).sum(1, keepdim=True)  # [n, 1]
        lift = ((1.0 - contrast) * bright * mean_luma).unsqueeze(2)  # [n, 1, 1]
        return (torch.bmm(matrices, pixels) + lift).reshape(n, 3, h, w)

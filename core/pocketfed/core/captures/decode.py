"""One file to one array."""

import errno
import math
import warnings
from pathlib import Path

import numpy as np
import soundfile
import torch
import torchaudio
from numpy.typing import NDArray
from PIL import Image, ImageOps

from pocketfed.core.captures.captures import SAMPLE_RATE
from pocketfed.core.errors import CaptureError

LOWEST_RATE = 1_000
"""Hz; a file that claims less is not a recording."""

RATE_STEP = 25
"""Hz; a resampling filter has 16000 / gcd(rate, 16000) phases, so rates are rounded to a multiple of this."""


def decode_photo(path: Path, side: int) -> NDArray[np.uint8]:
    """Read a JPEG, PNG or WebP file upright (EXIF orientation), as RGB, centre-cropped and resized.

    Transparency is ignored; of an animation, the first frame is read.

    Returns:
        uint8 [side, side, 3].

    Raises:
        CaptureError: the file cannot be decoded whole; the message is "<path> is …", without a way out.
        OSError: it cannot be read, which says nothing of its content.
        MemoryError: there is too little memory now.
    """
    try:
        with warnings.catch_warnings():  # Pillow warns of odd metadata and of sizes that phones really have
            warnings.simplefilter("ignore")
            with Image.open(path, formats=("JPEG", "PNG", "WEBP")) as image:
                image.draft(
                    None, (2 * side, 2 * side)
                )  # JPEG only: decode at 1/2, 1/4 or 1/8 where that suffices
                return square(ImageOps.exif_transpose(image), side)
    except Image.DecompressionBombError as error:
        raise CaptureError(f"{path} is larger than {2 * (Image.MAX_IMAGE_PIXELS or 0):,} pixels") from error
    except Exception as error:  # a damaged file makes Pillow's decoders raise almost anything
        if _is_of_the_machine(error):
            raise
        raise CaptureError(f"{path} is damaged or not a photo") from error


def _is_of_the_machine(error: Exception) -> bool:
    """Whether an error says something of this machine and not of the file. Errors that Pillow raises have no number;
    EINVAL is that of seeking to where a damaged file points."""
    if isinstance(error, OSError):
        return error.errno not in (None, errno.EINVAL)
    return isinstance(error, MemoryError)


def square(image: Image.Image, side: int) -> NDArray[np.uint8]:
    """Centre-crop to a square and resize, antialiased (bicubic), to uint8 [side, side, 3]."""
    if image.mode.startswith("I"):  # 16 bits a pixel, which Pillow would clip to 8 rather than scale
        image = Image.fromarray((np.asarray(image, dtype=np.int64) >> 8).clip(0, 255).astype(np.uint8))
    return np.asarray(ImageOps.fit(image.convert("RGB"), (side, side), Image.Resampling.BICUBIC))


def decode_sound(path: Path) -> NDArray[np.float32]:
    """Read a WAV, FLAC or Ogg file as mono (mean of the channels) at 16 kHz.

    Returns:
        float32 [samples] in [-1, 1], at least one sample.

    Raises:
        CaptureError: the file cannot be decoded, is empty, or holds values that are no sound; the message is
            "<path> is …", without a way out.
        MemoryError: there is too little memory now.
    """
    try:
        frames, rate = soundfile.read(path, dtype="float32", always_2d=True)  # [frames, channels]
    except (soundfile.SoundFileError, OSError, ValueError) as error:
        raise CaptureError(f"{path} is damaged or not a sound") from error
    if len(frames) == 0:
        raise CaptureError(f"{path} is empty")
    if rate < LOWEST_RATE:
        raise CaptureError(f"{path} is sampled at {rate} Hz, less than {LOWEST_RATE} Hz")
    mono: NDArray[np.float32] = frames[:, 0] if frames.shape[1] == 1 else frames.mean(axis=1)
    if not np.isfinite(mono).all():
        raise CaptureError(f"{path} is damaged (it has values that are not finite)")
    return np.clip(_resample(mono, rate), -1.0, 1.0)


def _resample(sound: NDArray[np.float32], rate: int) -> NDArray[np.float32]:
    if rate == SAMPLE_RATE:
        return sound
    if math.gcd(rate, SAMPLE_RATE) < RATE_STEP:
        rate = (
            round(rate / RATE_STEP) * RATE_STEP
        )  # at most 0.16 % off in pitch at 8 kHz, and never gigabytes
    try:
        samples: NDArray[np.float32] = torchaudio.functional.resample(
            torch.from_numpy(np.ascontiguousarray(sound)), rate, SAMPLE_RATE
        ).numpy()
    except RuntimeError as error:  # this is how PyTorch says that memory is out
        raise MemoryError(str(error)) from error
    return samples

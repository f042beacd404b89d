"""One photo file to one array."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from pocketfed.core.captures.decode import decode_photo
from pocketfed.core.errors import CaptureError

RED, BLUE = (220, 20, 30), (10, 30, 230)
ORIENTATION = 0x0112


def halves(width: int, height: int) -> Image.Image:
    """Left half red, right half blue."""
    image = Image.new("RGB", (width, height), RED)
    image.paste(BLUE, (width // 2, 0, width, height))
    return image


def assert_near(photo: NDArray[np.uint8], colour: tuple[int, int, int]) -> None:
    assert np.abs(photo.reshape(-1, 3).mean(axis=0) - colour).max() < 12


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.JPEG", "a.webp"])
@pytest.mark.parametrize("size", [(64, 64), (90, 60), (61, 97), (12, 10)])
def test_every_format_and_size_becomes_a_square(tmp_path: Path, name: str, size: tuple[int, int]) -> None:
    halves(*size).save(tmp_path / name)
    photo = decode_photo(tmp_path / name, 16)
    assert photo.shape == (16, 16, 3)
    assert photo.dtype == np.uint8
    assert_near(photo[:, :5], RED)
    assert_near(photo[:, -5:], BLUE)


def test_exif_orientation_is_honoured(tmp_path: Path) -> None:
    image = halves(80, 40)
    exif = image.getexif()
    exif[ORIENTATION] = 6  # the first column is the top of the scene
    image.save(tmp_path / "a.jpg", exif=exif, quality=95)
    photo = decode_photo(tmp_path / "a.jpg", 16)
    assert_near(photo[:6], RED)
    assert_near(photo[-6:], BLUE)


def test_the_centre_is_kept(tmp_path: Path) -> None:
    image = Image.new("RGB", (300, 100), RED)
    image.paste(BLUE, (100, 0, 200, 100))
    image.save(tmp_path / "a.png")
    np.testing.assert_allclose(
        decode_photo(tmp_path / "a.png", 10).astype(int)[:, 1:-1], [[BLUE] * 8] * 10, atol=3
    )


def test_reduction_is_antialiased(tmp_path: Path) -> None:
    chequers = np.indices((256, 256)).sum(axis=0) % 2 * 255
    Image.fromarray(chequers.astype(np.uint8)).save(tmp_path / "a.png")
    photo = decode_photo(tmp_path / "a.png", 16)
    assert np.abs(photo[1:-1, 1:-1].astype(int) - 127).max() <= 2


def test_a_photo_of_the_right_size_is_untouched(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    np.testing.assert_array_equal(decode_photo(tmp_path / "a.png", 12), pixels)


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "CMYK"])
def test_other_colour_modes_become_rgb(tmp_path: Path, mode: str) -> None:
    name = "a.jpg" if mode == "CMYK" else "a.png"
    image = halves(32, 32).convert(mode)
    if mode == "P":
        image.info["transparency"] = bytes([0, 128])
    image.save(tmp_path / name)
    photo = decode_photo(tmp_path / name, 16).astype(int)
    assert photo.shape == (16, 16, 3)
    assert (photo[:, :5] - photo[:, -5:])[..., 0].min() > 20  # more red on the left, or lighter


def test_sixteen_bits_a_pixel_are_scaled(tmp_path: Path) -> None:
    Image.fromarray(np.full((8, 8), 100 * 256, dtype=np.uint16)).save(tmp_path / "a.png")
    np.testing.assert_array_equal(decode_photo(tmp_path / "a.png", 8), 100)


def test_a_jpeg_of_several_pictures_gives_the_first(tmp_path: Path) -> None:
    """Phones save such files, with a depth map or a gain map behind the photo."""
    halves(32, 32).save(
        tmp_path / "a.jpg", format="MPO", save_all=True, append_images=[Image.new("RGB", (32, 32))]
    )
    assert_near(decode_photo(tmp_path / "a.jpg", 16)[:, :5], RED)


def test_large_photos_are_read_without_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    halves(40, 40).save(tmp_path / "warned.png")
    halves(60, 60).save(tmp_path / "refused.png")
    assert decode_photo(tmp_path / "warned.png", 8).shape == (8, 8, 3)
    with pytest.raises(CaptureError, match=r"refused\.png is larger than 2,000 pixels"):
        decode_photo(tmp_path / "refused.png", 8)


@pytest.mark.parametrize(
    "error", [OSError(22, "Invalid argument"), OSError("broken data stream"), KeyError(3)]
)
def test_what_damage_makes_a_decoder_raise_is_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(Image, "open", fail)
    with pytest.raises(CaptureError, match="is damaged or not a photo"):
        decode_photo(tmp_path / "a.png", 16)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp"])
@pytest.mark.parametrize("damage", ["empty", "text", "truncated"])
def test_damaged_files_are_refused(tmp_path: Path, name: str, damage: str) -> None:
    path = tmp_path / name
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    whole = path.read_bytes()
    path.write_bytes(
        {"empty": b"", "text": b"not a photo at all", "truncated": whole[: len(whole) // 2]}[damage]
    )
    with pytest.raises(CaptureError, match=f"{name} is damaged or not a photo"):
        decode_photo(path, 16)

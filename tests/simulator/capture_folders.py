"""The captures of a simulated fleet, as the folders of files that real phones would have."""

from pathlib import Path

import numpy as np
import soundfile
from PIL import Image

from pocketfed.core.captures.captures import SAMPLE_RATE
from pocketfed.core.modality import Modality
from pocketfed.simulator.config import Config
from pocketfed.simulator.fleet import deal
from pocketfed.simulator.simulate import load_captures


def make_captures(folder: Path, count: int = 50) -> dict[str, str]:
    """Photos and sounds of noise, without classes, as the `[captures]` of a configuration names them."""
    rng = np.random.default_rng(0)
    for kind in ("photos", "sounds"):
        (folder / kind).mkdir(parents=True)
    for i in range(count):
        photo = rng.integers(0, 256, (20, 24, 3), dtype=np.uint8)
        Image.fromarray(photo).save(folder / "photos" / f"{i:03}.png")
        sound = 0.1 * rng.standard_normal(int(rng.integers(3000, 9000)))
        soundfile.write(folder / "sounds" / f"{i:03}.wav", sound, SAMPLE_RATE)
    return {kind: str(folder / kind) for kind in ("photos", "sounds")}


def write_captures(config: Config, folder: Path) -> list[Path]:
    """One folder a phone, by number. Files decode to the very numbers, and are named in the order of the arrays."""
    train = {modality: split.train for modality, split in load_captures(config).items()}
    fleet = deal(train, config.fleet, config.seed)
    folders = [folder / str(number) for number in range(fleet.phones)]
    for number, place in enumerate(folders):
        place.mkdir(parents=True)
        for modality, parts in fleet.holdings.items():
            for position, index in enumerate(parts.get(number, np.zeros(0, np.int64))):
                capture, name = train[modality].items[index], place / f"{position:04}"
                if modality is Modality.PHOTO:
                    Image.fromarray(capture).save(name.with_suffix(".png"))
                else:
                    soundfile.write(name.with_suffix(".wav"), capture, SAMPLE_RATE, subtype="FLOAT")
    return folders

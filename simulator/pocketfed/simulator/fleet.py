"""The fleet: which phone holds which captures, kept on disk so that any number of processes can share them."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pocketfed.core.captures import Captures
from pocketfed.core.modality import Modality
from pocketfed.core.randomness import generator
from pocketfed.mobile_client.batches import SMALLEST_REST
from pocketfed.simulator.config import FleetConfig
from pocketfed.simulator.partition import Parts, by_dirichlet, by_group


@dataclass(frozen=True)
class Fleet:
    """Indices into the captures of each modality, int64, by phone. A phone may lack a modality.

    Attributes:
        phones: how many there are.
        holdings: {modality: {phone: indices}}; no capture is held twice, and all are held.
    """

    phones: int
    holdings: Mapping[Modality, Mapping[int, NDArray[np.int64]]]


def deal(captures: Mapping[Modality, Captures], config: FleetConfig, seed: int) -> Fleet:
    """Deal captures to phones; the two modalities are dealt independently, so they are unpaired.

    Raises:
        ConfigError: too few captures for that many phones.
    """
    kinds = phone_kinds(config, list(captures), seed)
    holdings = {}
    for modality, items in captures.items():
        holders = [phone for phone, kind in enumerate(kinds) if modality in kind]
        rng = generator(seed, f"partition {modality}")
        parts: Parts
        partition = config.photo_partition if modality is Modality.PHOTO else config.sound_partition
        if partition == "group":
            parts = by_group(items.groups, len(holders), SMALLEST_REST, rng)
        else:
            parts = by_dirichlet(items.labels, len(holders), config.alpha, SMALLEST_REST, rng)
        holdings[modality] = dict(zip(holders, parts, strict=True))
    return Fleet(config.phones, holdings)


def phone_kinds(config: FleetConfig, modalities: list[Modality], seed: int) -> list[tuple[Modality, ...]]:
    """Which modalities each phone records: shares of photos only and sounds only, the others both, shuffled.

    With one modality every phone records it. With two, each modality has at least one phone.
    """
    if len(modalities) == 1:
        return [tuple(modalities)] * config.phones
    photos = round(config.photos_only * config.phones)
    sounds = min(round(config.sounds_only * config.phones), config.phones - photos)
    if photos == config.phones:  # rounding must not leave a modality without a phone
        photos -= 1
    elif sounds == config.phones:
        sounds -= 1
    both = config.phones - photos - sounds
    kinds: list[tuple[Modality, ...]] = (
        [(Modality.PHOTO,)] * photos
        + [(Modality.SOUND,)] * sounds
        + [(Modality.PHOTO, Modality.SOUND)] * both
    )
    order = generator(seed, "phone kinds").permutation(config.phones)
    return [kinds[i] for i in order]


def save_fleet(folder: Path, fleet: Fleet, captures: Mapping[Modality, Captures]) -> None:
    """Write the captures in the order of their holders, and where each holder's part begins."""
    index: dict[str, dict[str, list[int]]] = {}
    for modality, holders in fleet.holdings.items():
        order = np.concatenate(list(holders.values()))
        np.save(folder / f"{modality}.npy", captures[modality].items[order])
        ends = np.cumsum([len(part) for part in holders.values()])
        index[modality] = {
            str(phone): [int(end) - len(part), int(end)]
            for (phone, part), end in zip(holders.items(), ends, strict=True)
        }
    (folder / "fleet.json").write_text(json.dumps({"phones": fleet.phones, "index": index}))


def load_holdings(folder: Path) -> list[dict[Modality, NDArray[Any]]]:
    """What `save_fleet` wrote, one dictionary per phone; the arrays are mapped from disk, not read."""
    saved = json.loads((folder / "fleet.json").read_text())
    phones: list[dict[Modality, NDArray[Any]]] = [{} for _ in range(saved["phones"])]
    for name, holders in saved["index"].items():
        items = np.load(folder / f"{name}.npy", mmap_mode="r")
        for phone, (start, end) in holders.items():
            phones[int(phone)][Modality(name)] = items[start:end]
    return phones

"""Dealing captures: nothing lost, nothing dealt twice, skew as asked, the same for the same seed."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pocketfed.core.captures import Captures
from pocketfed.core.errors import ConfigError
from pocketfed.core.modality import Modality
from pocketfed.simulator.config import FleetConfig
from pocketfed.simulator.fleet import deal, load_holdings, phone_kinds, save_fleet
from pocketfed.simulator.partition import Parts, by_dirichlet, by_group


def covers(parts: Parts, count: int) -> bool:
    return sorted(np.concatenate(parts).tolist()) == list(range(count))


@given(
    st.integers(1, 8),
    st.floats(0.01, 100),
    st.integers(1, 8),
    st.integers(0, 3),
    st.integers(0, 99),
    st.data(),
)
def test_dirichlet_conserves_and_respects_the_minimum(
    phones: int, alpha: float, classes: int, fewest: int, seed: int, data: st.DataObject
) -> None:
    count = data.draw(st.integers(max(1, phones * fewest), 200))
    rng = np.random.default_rng(seed)
    parts = by_dirichlet(rng.integers(-1, classes, count), phones, alpha, fewest, rng)
    assert covers(parts, count)
    assert len(parts) == phones
    assert min(len(part) for part in parts) >= fewest


@given(st.integers(1, 6), st.lists(st.integers(1, 9), min_size=6, max_size=20), st.integers(0, 99))
def test_groups_stay_whole_and_phones_balanced(phones: int, sizes: list[int], seed: int) -> None:
    groups = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(sizes)), sizes))
    parts = by_group(groups, phones, 0, np.random.default_rng(seed))
    assert covers(parts, len(groups))
    owners = [{int(g) for g in groups[part]} for part in parts]
    assert sum(len(o) for o in owners) == len(sizes)
    held = [len(part) for part in parts]
    assert max(held) - min(held) <= max(sizes)


def test_small_alpha_is_skewed_and_large_is_even() -> None:
    labels = np.repeat(np.arange(10), 100)

    def largest_share(alpha: float) -> float:
        parts = by_dirichlet(labels, 10, alpha, 0, np.random.default_rng(0))
        return float(np.mean([np.bincount(labels[p], minlength=10).max() / len(p) for p in parts if len(p)]))

    assert largest_share(0.1) > 0.5
    assert largest_share(1000.0) < 0.15


def test_too_few_captures_or_groups_are_said() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(ConfigError, match="30 captures are too few for 10 phones"):
        by_dirichlet(np.zeros(30, dtype=np.int64), 10, 1.0, 8, rng)
    with pytest.raises(ConfigError, match="3 groups are too few for 4 phones"):
        by_group(np.repeat(np.arange(3), 20), 4, 8, rng)
    with pytest.raises(ConfigError, match="do not say who made them"):
        by_group(np.full(40, -1), 2, 8, rng)


@given(
    st.integers(2, 30), st.sampled_from([(0.2, 0.2), (1.0, 0.0), (0.0, 1.0), (0.5, 0.5), (0.0, 0.0)]),
    st.integers(0, 9),
)  # fmt: skip
def test_every_modality_has_a_phone_and_shares_are_kept(
    phones: int, shares: tuple[float, float], seed: int
) -> None:
    config = FleetConfig(phones=phones, photos_only=shares[0], sounds_only=shares[1])
    kinds = phone_kinds(config, list(Modality), seed)
    assert len(kinds) == phones
    assert {m for kind in kinds for m in kind} == set(Modality)
    assert abs(sum(kind == (Modality.PHOTO,) for kind in kinds) - shares[0] * phones) <= 1


def captures(modality: Modality, count: int) -> Captures:
    shape = (4, 4, 3) if modality is Modality.PHOTO else (16,)
    items = np.arange(count * int(np.prod(shape))).reshape(count, *shape)
    typed = (items % 256).astype(np.uint8) if modality is Modality.PHOTO else items.astype(np.float32)
    index = np.arange(count)
    return Captures(modality, typed, index % 5, tuple("abcde"), index % 30, index)


@pytest.mark.parametrize("partition", ["dirichlet", "group"])
def test_what_is_saved_is_what_was_dealt(partition: str, tmp_path: Path) -> None:
    config = FleetConfig.model_validate(
        {"phones": 6, "photo_partition": partition, "sound_partition": partition}
    )
    every = {Modality.PHOTO: captures(Modality.PHOTO, 120), Modality.SOUND: captures(Modality.SOUND, 90)}
    fleet, again = deal(every, config, seed=3), deal(every, config, seed=3)
    save_fleet(tmp_path, fleet, every)
    holdings = load_holdings(tmp_path)
    for modality, holders in fleet.holdings.items():
        assert covers(list(holders.values()), len(every[modality]))
        for phone, index in holders.items():
            assert np.array_equal(index, again.holdings[modality][phone])
            assert np.array_equal(holdings[phone][modality], every[modality].items[index])
    assert sum(modality in phone for phone in holdings for modality in Modality) == sum(
        len(holders) for holders in fleet.holdings.values()
    )

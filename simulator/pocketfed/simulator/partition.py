"""Dealing captures to phones: by class with Dirichlet skew, or by who made them. Nothing is lost or dealt twice."""

import numpy as np
from numpy.typing import NDArray

from pocketfed.core.errors import ConfigError

Parts = list[NDArray[np.int64]]


def by_dirichlet(
    labels: NDArray[np.int64], phones: int, alpha: float, fewest: int, rng: np.random.Generator
) -> Parts:
    """Deal each class over the phones in shares drawn from Dirichlet(alpha); small alpha, more skew.

    Phones that would hold fewer than `fewest` captures get some from the fullest (our choice; the plain rule leaves
    phones empty at alpha 0.1, and an empty phone is no phone).

    Args:
        labels: int64 [n]; without labels all captures are one class, and only the amounts are skewed.
        phones: how many parts to make.
        alpha: positive.
        fewest: least captures per phone.
        rng: source of chance.

    Returns:
        One rising int64 array of indices per phone.

    Raises:
        ConfigError: there are too few captures for that many phones.
    """
    if len(labels) < phones * fewest:
        raise ConfigError(
            [
                f"{len(labels)} captures are too few for {phones} phones with at least {fewest} each; use fewer phones"
            ]
        )
    owner = np.empty(len(labels), dtype=np.int64)
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        shares = rng.dirichlet(np.full(phones, alpha))
        cuts = np.round(np.cumsum(shares)[:-1] * len(members)).astype(np.int64)
        for phone, part in enumerate(np.split(members, cuts)):
            owner[part] = phone
    _fill_up(owner, phones, fewest, rng)
    return [np.flatnonzero(owner == phone) for phone in range(phones)]


def by_group(groups: NDArray[np.int64], phones: int, fewest: int, rng: np.random.Generator) -> Parts:
    """Deal whole groups (a speaker, a source recording): the largest first, each to the phone with least so far.

    Returns:
        One rising int64 array of indices per phone.

    Raises:
        ConfigError: there are fewer groups than phones, or a phone would hold fewer than `fewest` captures.
    """
    names, sizes = np.unique(groups, return_counts=True)
    if names[0] < 0:
        raise ConfigError(['these captures do not say who made them; deal them by "dirichlet"'])
    held = np.zeros(phones, dtype=np.int64)
    owner = np.empty(len(groups), dtype=np.int64)
    shuffled = rng.permutation(len(names))
    for group in shuffled[np.argsort(-sizes[shuffled], kind="stable")]:
        phone = int(np.argmin(held))
        owner[groups == names[group]] = phone
        held[phone] += sizes[group]
    if held.min() < fewest:
        problem = f"{len(names)} groups are too few for {phones} phones with at least {fewest} captures each"
        raise ConfigError([problem + '; use fewer phones, or deal them by "dirichlet"'])
    return [np.flatnonzero(owner == phone) for phone in range(phones)]


def _fill_up(owner: NDArray[np.int64], phones: int, fewest: int, rng: np.random.Generator) -> None:
    """Move captures from the fullest phone to phones below `fewest`, in place."""
    held = np.bincount(owner, minlength=phones)
    while held.min() < fewest:
        poor, rich = int(np.argmin(held)), int(np.argmax(held))
        owner[rng.choice(np.flatnonzero(owner == rich))] = poor
        held[poor] += 1
        held[rich] -= 1

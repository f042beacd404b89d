"""Every random number of a run comes from one seed and says what it is for, so that order of execution is irrelevant."""

import zlib

import numpy as np


def generator(seed: int, purpose: str, *key: int) -> np.random.Generator:
    """A generator of its own for a purpose ("partition", "phone", ...) and a key (round, phone, ...)."""
    return np.random.Generator(
        np.random.Philox(np.random.SeedSequence([seed, zlib.crc32(purpose.encode()), *key]))
    )

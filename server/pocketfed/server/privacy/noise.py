"""Standard normal numbers from the operating system's entropy.

A run's seed is no secret: every phone is sent it. Noise that followed from the seed could be subtracted again, and so
could noise whose generator's state can be worked out from its output, which is true of numpy's.
"""

import os
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Normals = Callable[[int], NDArray[np.float64]]
"""`count` to independent standard normal numbers, float64 [count]."""


def system_normals(count: int) -> NDArray[np.float64]:
    """Independent standard normal numbers, float64 [count], by Box and Muller's transform.

    They are float64 and not real numbers: the least bits of a sum of one of them and a secret may tell of the secret
    (Mironov, 2012). Rounding the released weights to float32 hides most of that, and nothing here claims more.
    """
    pairs = (count + 1) // 2
    bits = np.frombuffer(os.urandom(16 * pairs), dtype=np.uint64) >> np.uint64(11)
    uniform = (bits + 0.5) * 2.0**-53  # strictly between 0 and 1
    radius, angle = np.sqrt(-2 * np.log(uniform[:pairs])), 2 * np.pi * uniform[pairs:]
    return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])[:count]

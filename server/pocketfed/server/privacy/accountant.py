"""How much privacy releases cost together, by Google's `dp-accounting`.

Two ways of counting, which protect against different changes and are not to be compared number by number:

- As a rule, a phone counts as if it were asked in every round, since it knows the run's seed and others may know who
  was there. Neighbours differ in one phone whose answers add nothing to any sum, as if each of them was refused: the
  sum of changes moves by at most C, and the centred count of an adaptive norm by 1/2. (`dp-accounting` calls that
  REPLACE_SPECIAL.) A row of Gaussian mechanisms is one Gaussian mechanism, whose epsilon is known exactly.
- Where each round asks a secret uniform sample of fixed size, without replacement, of a known population, sampling
  hides a phone too. The library's bound (Wang, Balle, Kasiviswanathan, 2019, theorem 27) is for neighbours in which one
  phone is replaced by another: the sum moves by at most 2 C and the centred count by 1, so the mechanism counts with
  z / 2.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pocketfed.core.errors import MissingPackageError


@dataclass(frozen=True)
class Release:
    """A noisy mean that was, or is to be, published.

    Attributes:
        noise_multiplier: z, as `Mechanism` has it.
        population: phones of which the cohort was a secret sample; 0 if who was asked is not taken for secret.
        asked: size of that sample; 0 likewise.
    """

    noise_multiplier: float
    population: int = 0
    asked: int = 0


def epsilon_of(releases: Sequence[Release], delta: float) -> float:
    """What these releases cost together, at this delta.

    If any of them counts on sampling, all are counted for neighbours in which one phone is replaced by another.

    Raises:
        MissingPackageError: the extra `privacy` is not installed.
    """
    library = _library()
    if not releases:
        return 0.0
    if not any(release.population for release in releases):
        precision = math.fsum(release.noise_multiplier**-2 for release in releases)
        return float(library.get_epsilon_gaussian(precision**-0.5, delta))
    accountant = library.rdp.RdpAccountant(neighboring_relation=library.NeighboringRelation.REPLACE_ONE)
    for release, count in Counter(releases).items():
        event = library.GaussianDpEvent(release.noise_multiplier / 2)
        if release.population:
            event = library.SampledWithoutReplacementDpEvent(release.population, release.asked, event)
        accountant.compose(event, count)
    return float(accountant.get_epsilon(delta))


def _library() -> Any:
    try:
        import dp_accounting
        import dp_accounting.rdp
    except ImportError as error:
        raise MissingPackageError(
            "privacy needs the package dp-accounting; install it: pip install -e '.[privacy]' in the checkout of pocketfed"
        ) from error
    return dp_accounting

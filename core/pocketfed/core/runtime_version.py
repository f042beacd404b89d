"""Whether the runtime here is new enough for the programs of a bundle: it may not be older than their exporter."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pocketfed.core.errors import BundleError

RUNTIME = "executorch"
"""Its name where a manifest says what a bundle was made with."""


def check_runtime(manifest: Mapping[str, Any], installed: str, origin: Path | str) -> None:
    """Nothing, if the runtime is not older than what a bundle was made with, or if nobody can say.

    Args:
        manifest: of the bundle; one that does not say what it was made with is taken.
        installed: version of the runtime here.
        origin: where the bundle is from, for messages.

    Raises:
        BundleError: the runtime is older.
    """
    versions = manifest.get("made_with")
    made = str(versions.get(RUNTIME, "")) if isinstance(versions, Mapping) else ""
    wanted, found = numbers_of(made), numbers_of(installed)
    if wanted is not None and found is not None and found < wanted:
        raise BundleError(
            f"{origin} was made with {RUNTIME} {made[:40]}, and the runtime here is older, {installed}; install {RUNTIME} "
            f"{made[:40]} or later, or make the bundle with {installed}"
        )


def numbers_of(version: str) -> tuple[int, ...] | None:
    """The numbers that a version begins with, without zeros at the end; None if it begins with none.

    >>> numbers_of("1.10.0+cpu"), numbers_of("1.9"), numbers_of("main")
    ((1, 10), (1, 9), None)
    """
    begun = re.match(r"[0-9]{1,9}(\.[0-9]{1,9})*", version)
    if begun is None:
        return None
    numbers = [int(number) for number in begun[0].split(".")]
    while len(numbers) > 1 and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)

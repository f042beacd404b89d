"""A program of a bundle while the bundle is made."""

from dataclasses import dataclass
from typing import Any

LARGEST_BATCH = 256
"""Captures that an inference program may take at once."""


@dataclass(frozen=True)
class Part:
    """A program of a bundle.

    Attributes:
        files: its files by path; one, or those of a package.
        about: its entry in the manifest; JSON values.
    """

    files: dict[str, bytes]
    about: dict[str, dict[str, Any]]

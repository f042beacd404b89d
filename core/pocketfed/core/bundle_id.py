"""Ids of bundles as they come from outside. A module of its own, since a phone that carries one needs no PyTorch."""

import re


def is_bundle_id(value: object) -> bool:
    """Whether something can be the id of a bundle: a SHA-256 in lower-case hex."""
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None

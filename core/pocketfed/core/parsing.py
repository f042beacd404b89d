"""JSON and TOML that anybody may have written.

Python's readers of both recurse, and so does most of what is done with a value: some thousand brackets in a file of a
stranger would end a process with a traceback where it is read, and some hundred where it is shown or written again.
"""

import json
import tomllib
from collections.abc import Callable
from typing import Any

DEEPEST = 32
"""Levels of values; ours have up to nine."""

LARGEST_EXACT = 2**53 - 1
"""The largest whole number that is read exactly from JSON in every language, as many have floats of 64 bits alone."""


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError: it is none, or holds what no file of ours does: deep nesting, or a number of more than 64 bits.
    """
    return _bounded(json.loads, text)


def parse_toml(text: str) -> dict[str, Any]:
    """The values of a TOML text.

    Raises:
        ValueError: as `parse_json`.
    """
    values: dict[str, Any] = _bounded(tomllib.loads, text)
    return values


def whole(value: Any, what: str, least: int = 0) -> int:
    """The value itself, if it is a whole number of at least `least`: no fraction, truth value or text that would become one.

    Raises:
        ValueError: it is none; the message says that it is no `what`.
    """
    if type(value) is not int or value < least:
        raise ValueError(f"{value!r:.40} is no {what}")
    return value


def _bounded(parse: Callable[[Any], Any], text: str | bytes) -> Any:
    try:
        value = parse(text)
    except RecursionError as error:
        raise ValueError(f"it is nested more than {DEEPEST} deep") from error
    level = [value]
    for _ in range(DEEPEST):
        if any(isinstance(part, int) and part.bit_length() > 64 for part in level):
            raise ValueError("it has a number of more than 64 bits")
        level = [inner for part in level for inner in _inside(part)]
        if not level:
            return value
    raise ValueError(f"it is nested more than {DEEPEST} deep")


def _inside(value: Any) -> Any:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()

"""A record from outside, looked over as it came: decoded, many small items take twenty times their bytes, and seconds."""

from collections.abc import Iterator

MOST_ITEMS = 64
"""In a record. Those of updates have some ten, those of folds up to forty."""

LONGEST_KEY = 200
"""Bytes."""

ITEM, KEY, VALUE = 1, 1, 2
"""Field numbers: of an item in a record, and of what an item has."""

LISTS = 20
"""In a value, the numbers of fields above this are those of lists, which our records have none of."""


def check_record(body: memoryview) -> None:
    """Whether a record, as protobuf writes Flower's `ConfigRecord`, is one that may be decoded.

    Looks at no more fields than an honest record has, and not into them.

    Raises:
        ValueError: it has too many items, an item that is more than a key and a value, or a list; or it is no protobuf.
    """
    for count, (number, item) in enumerate(_fields(body), start=1):
        if number != ITEM or count > MOST_ITEMS:
            raise ValueError(f"a record has more than {MOST_ITEMS} items")
        _check_item(item)


def _check_item(item: memoryview) -> None:
    seen: set[int] = set()
    for number, content in _fields(item):
        if number in seen or number not in (KEY, VALUE):
            raise ValueError("an item of a record is more than a key and a value")
        seen.add(number)
        if number == KEY and len(content) > LONGEST_KEY:
            raise ValueError(f"a record has a key of {len(content)} bytes; the most is {LONGEST_KEY}")
        if number == VALUE:
            _check_value(content)


def _check_value(value: memoryview) -> None:
    for count, (number, _) in enumerate(_fields(value)):
        if count or number > LISTS:
            raise ValueError("a value of a record is a list")


def _fields(content: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Number and content of each field of a message; of a number, the content is what it is written as."""
    at = 0
    while at < len(content):
        head, at = _number(content, at)
        number, kind = head >> 3, head & 7
        if kind == 0:
            _, end = _number(content, at)
        elif kind == 2:
            length, at = _number(content, at)
            end = at + length
        elif kind in (1, 5):
            end = at + (8 if kind == 1 else 4)
        else:
            raise ValueError("a record is no protobuf")
        if end > len(content):
            raise ValueError("a record ends half-way")
        yield number, content[at:end]
        at = end


def _number(content: memoryview, at: int) -> tuple[int, int]:
    """A variable-length number, and where it ends."""
    value = 0
    for shift in range(0, 70, 7):
        if at == len(content):
            raise ValueError("a record ends half-way")
        byte = content[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
    raise ValueError("a record has a number that does not end")

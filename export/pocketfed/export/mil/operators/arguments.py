"""Arguments of operators as Python values.

Python and torch count from the end, cut what is too long, or fill up where Core ML does not: what is out of range is an
error here, or a wrong package would agree.
"""

from typing import Any

from torch import Tensor


def integers(value: Tensor) -> list[int]:
    """A tensor of integers as a list; a scalar gives one."""
    return [int(number) for number in value.reshape(-1).tolist()]


def integers_or(value: Tensor | None, default: list[int]) -> list[int]:
    """A tensor of integers as a list, or a default."""
    return default if value is None else integers(value)


def each(value: Tensor | None, count: int, default: int = 0) -> list[int]:
    """So many integers, one for each axis; the default for all of them if there is no tensor.

    Raises:
        ValueError: the tensor has more or fewer.
    """
    found = integers_or(value, [default] * count)
    if len(found) != count:
        raise ValueError(f"{found} are not {count} numbers")
    return found


def flags(value: Tensor | None, count: int) -> list[bool]:
    """So many booleans; all false if there is no tensor.

    Raises:
        ValueError: the tensor has more or fewer.
    """
    return [bool(flag) for flag in each(value, count)]


def padding(value: Tensor | None, count: int) -> list[int]:
    """How much is added before and after axes, so many numbers; none if there is no tensor.

    Raises:
        ValueError: the tensor has more or fewer, or something is to be taken away.
    """
    found = each(value, count)
    if min(found, default=0) < 0:
        raise ValueError(f"{found} would take elements away")
    return found


def place(index: int, size: int) -> int:
    """An index from the front; a negative one counts from the end.

    Raises:
        ValueError: it is outside.
    """
    if not -size <= index < size:
        raise ValueError(f"{index} is out of range: there are {size}")
    return index % size


def places(indices: list[int], size: int) -> list[int]:
    """The same for several, in ascending order.

    Raises:
        ValueError: one is outside, or there twice.
    """
    found = sorted({place(index, size) for index in indices})
    if len(found) != len(indices):
        raise ValueError(f"{indices} has one of {size} twice")
    return found


def several(value: Any) -> tuple[Tensor, ...]:
    """An argument that may be one tensor or many."""
    return value if isinstance(value, tuple) else (value,)


def last_first(pairs: list[int]) -> list[int]:
    """Amounts before and after each axis, first axis first, as torch wants them: last axis first."""
    return [amount for i in range(len(pairs) - 2, -1, -2) for amount in pairs[i : i + 2]]

"""Arguments of operators as Python values."""

from typing import Any

from torch import Tensor


def integers(value: Tensor) -> list[int]:
    """A tensor of integers as a list; a scalar gives one."""
    return [int(number) for number in value.reshape(-1).tolist()]


def integers_or(value: Tensor | None, default: list[int]) -> list[int]:
    """A tensor of integers as a list, or a default."""
    return default if value is None else integers(value)


def flags(value: Tensor | None, count: int) -> list[bool]:
    """A tensor of booleans as a list; all false if there is none."""
    return [False] * count if value is None else [bool(flag) for flag in value.reshape(-1).tolist()]


def several(value: Any) -> tuple[Tensor, ...]:
    """An argument that may be one tensor or many."""
    return value if isinstance(value, tuple) else (value,)


def last_first(pairs: list[int]) -> list[int]:
    """Amounts before and after each axis, first axis first, as torch wants them: last axis first."""
    return [amount for i in range(len(pairs) - 2, -1, -2) for amount in pairs[i : i + 2]]

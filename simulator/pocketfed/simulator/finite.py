"""Numbers that options take."""

import math

import typer


def finite(number: float | None) -> float | None:
    """The number itself; click's ranges let NaN through, which is neither below nor above anything.

    Raises:
        BadParameter: it is none.
    """
    if number is not None and not math.isfinite(number):
        raise typer.BadParameter(f"{number} is no number; give one such as 60")
    return number
